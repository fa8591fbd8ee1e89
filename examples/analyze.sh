#!/usr/bin/env bash
# Stands in for an analysis that wants much memory: a summary of one column. usage: ./analyze.sh [FILE]
set -euo pipefail

sleep "${STAND_IN_SECONDS:-1}"
if [ $# -gt 0 ]; then cut -d, -f2 -- "$1"; else seq 1 1000; fi | sort -g |
    awk '{ sum += $1; value[NR] = $1 }
         END { printf "%d values, mean %.2f, median %.2f\n", NR, sum / NR, value[int((NR + 1) / 2)] }'
