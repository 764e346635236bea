#!/usr/bin/env bash
# All checks: lint, format, types, imports, tests.
#
#     ./scripts/test.sh [--python VERSION] [PYTEST ARGUMENTS...]
#
# --python 3.12 uses an environment of its own, .venv-3.12. The other arguments go to pytest:
# -m slow runs the matrices of real trainings that take too long for every change, -m axolotl
# what may differ from one Axolotl to the next.
set -euo pipefail

cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."
choice=()
if [[ ${1:-} == --python ]]; then
    choice=(--python "${2:?"--python needs a version, for example 3.12"}")
    shift 2
fi
scripts/make_venv.sh "${choice[@]}" dev
bin=.venv${choice[1]:+-${choice[1]}}/bin

run() {
    echo "\$ $*"
    "$@"
}
run "$bin/python" -m ruff check
run "$bin/python" -m ruff format --check
run "$bin/python" -m mypy
run "$bin/python" "$bin/lint-imports" --no-logo --no-cache
run "$bin/python" -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not slow" "$@"
