#!/usr/bin/env bash
# Let ckpt-chaos kill a training at each file that its saves write, on plain Axolotl and with
# leviathan, and print the two tables side by side.
#
#     ./bench/chaos.sh [--points 36] [--jobs 2] [--folder FOLDER]
#
# Half an hour on two idle cores. The tables stay in work/chaos.
set -euo pipefail

cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."
if [[ ! -x .venv/bin/ckpt-chaos ]]; then
    scripts/make_venv.sh dev
fi
exec nice .venv/bin/python bench/chaos.py "$@"
