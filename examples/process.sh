#!/usr/bin/env bash
# Stands in for light work on one file. usage: ./process.sh FILE
set -euo pipefail

sleep "${STAND_IN_SECONDS:-1}"
echo "${1:?usage: ./process.sh FILE} processed"
