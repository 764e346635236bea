#!/usr/bin/env bash
# Make .venv and install this project into it, unless that is done.
#
#     ./scripts/make_venv.sh [dev]      dev: with what tests and checks need
set -euo pipefail

extra=${1:-}
root=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
cd -- "$root"

# What was installed, from what, and where: a moved folder or a changed project is installed anew.
stamp=.venv/leviathan-installed${extra:+-$extra}
wanted="$(cksum <pyproject.toml) $root"
if [[ -x .venv/bin/leviathan && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    exit 0
fi

find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        # Asked by running it: a name on PATH may be a shim for a version that is not there.
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
            2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python 3.11 or newer with its venv module on PATH. Install one, for example" >&2
    echo "    sudo apt install python3.11 python3.11-venv" >&2
    exit 2
}

run() {
    echo "\$ $*"
    "$@"
}

if ! .venv/bin/python -c '' 2>/dev/null; then
    python=$(find_python)
    run "$python" -m venv --clear .venv
fi
run .venv/bin/python -m pip install --editable ".${extra:+[$extra]}"
echo "$wanted" >"$stamp"
