#!/usr/bin/env bash
# All checks: lint, format, types, tests. Arguments go to pytest: ./scripts/test.sh -m slow
# runs the matrices of real trainings that take too long for every change.
set -euo pipefail

cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."
scripts/make_venv.sh dev

run() {
    echo "\$ $*"
    "$@"
}
run .venv/bin/python -m ruff check
run .venv/bin/python -m ruff format --check
run .venv/bin/python -m mypy
run .venv/bin/lint-imports --no-logo --no-cache
run .venv/bin/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not slow" "$@"
