#!/usr/bin/env bash
# Stands in for a preprocessing step: writes points near the line y = 3x + 2. usage: ./preprocess.sh [FILE]
set -euo pipefail

file=${1:-${TORC_OUTPUT_DIR:-.}/points-${TORC_JOB_ID:-0}.csv}
sleep "${STAND_IN_SECONDS:-1}"
awk 'BEGIN { for (i = 0; i < 200; i++) { x = i / 100; print x "," 3 * x + 2 + sin(i * i) / 10 } }' >"$file"
echo "wrote $(wc -l <"$file") points to ${file##*/}"
