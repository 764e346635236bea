#!/usr/bin/env bash
# Measure the shipped settings on this machine's GPU, within 16 GB, with a model of random weights:
# memory, time of a step, a save and a pause, and what a resume changes. Prints a Markdown table.
#     scripts/measure_gpu.sh [--gpu 16GB] [--steps 24] [--out work/measure] [--shape tiny]
set -euo pipefail

cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."
exec .venv/bin/python scripts/measure_gpu.py "$@"
