#!/usr/bin/env bash
# Disturb real trainings, and merges, in every way: kill -9, power cuts, failing system calls, mounts
# that hang, odd folders.
#
#     ./scripts/faults.sh [--parts kills,power,calls,merge,...] [--jobs 2] [--folder FOLDER]
#
# Under an hour on two idle cores. Prints a table in markdown at its end. Interrupted, it
# continues where it was: each try is kept in work/faults/results.jsonl; delete that folder to
# begin anew. Power cuts, full disks and mounts need root; what cannot be tried here is said.
set -euo pipefail

cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."
if [[ ! -x .venv/bin/leviathan ]]; then
    scripts/make_venv.sh dev
fi
python=$PWD/.venv/bin/python
cd tests
exec nice "$python" -m faults "$@"
