#!/usr/bin/env bash
# Make an environment and install this project into it, unless that is done.
#
#     ./scripts/make_venv.sh [--python VERSION] [dev]
#
# It is .venv, made with a Python that is found here; with --python it is .venv-VERSION, beside
# it. dev: with what tests and checks need. Exit status 69: that Python is not on this machine.
set -euo pipefail

root=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
cd -- "$root"
version=
if [[ ${1:-} == --python ]]; then
    version=${2:?"--python needs a version, for example 3.12"}
    shift 2
fi
extra=${1:-}
venv=.venv${version:+-$version}

# What was installed, from what, and where: after a change of the project or a move of its
# folder it is installed again.
stamp=$venv/leviathan-installed${extra:+-$extra}
wanted="$(cksum <pyproject.toml) $root"
if [[ -x $venv/bin/leviathan && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    exit 0
fi

has_uv() { command -v uv >/dev/null; }

# Where a Python of this version may be.
places_of() {
    local name
    for name in "python$1" python3 python; do
        type -aP "$name" || true
    done
    # What a shim of pyenv stands for, also where pyenv has chosen another version.
    compgen -G "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$1.*/bin/python" || true
    if has_uv; then
        uv python find --no-python-downloads "$1" 2>/dev/null || true
    fi
}

find_python() {
    local wanted place needs="import sys, venv" names="3.11, 3.12 or 3.13"
    has_uv || needs+=", ensurepip"
    for wanted in ${version:-3.11 3.12 3.13}; do
        while IFS= read -r place; do
            # Asked by running it: a shim may stand for a version that is not there.
            if "$place" -c "$needs
sys.exit('%d.%d' % sys.version_info[:2] != '$wanted')" 2>/dev/null; then
                echo "$place"
                return
            fi
        done < <(places_of "$wanted")
    done
    echo "No Python ${version:-$names} with its venv module on this machine. To install one:" >&2
    echo "    sudo apt install python${version:-3.12} python${version:-3.12}-venv" >&2
    return 69
}

# A terminal sees the newest line of what is piped in; a file sees none.
show_newest_line() {
    local line
    if [[ ! -t 1 ]]; then
        cat >/dev/null
        return
    fi
    while IFS= read -r line; do
        printf '\r\e[K%.78s' "$line"
    done
    printf '\r\e[K'
}

install() {
    local log=$venv/install.log
    if has_uv; then
        uv pip install --quiet --python "$venv/bin/python" "$@"
        return
    fi
    # An environment that uv made has no pip.
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip
    if PYTHONUNBUFFERED=1 "$venv/bin/python" -m pip install --progress-bar off "$@" 2>&1 |
        tee "$log" | show_newest_line; then
        return
    fi
    # From the first error on: what caused a conflict stands below it.
    if ! sed '/^ *\(ERROR\|error\|Traceback\)\b/,$!d' "$log" | grep . >&2; then
        tail -n 30 "$log" >&2
    fi
    echo "pip failed; its whole log is $root/$log" >&2
    return 1
}

if ! "$venv/bin/python" -c '' 2>/dev/null; then
    python=$(find_python)
    rm -rf -- "$venv"
    if has_uv; then
        uv venv --quiet --python "$python" "$venv"
    else
        "$python" -m venv "$venv"
    fi
fi
echo "Installing Axolotl and leviathan into $venv ($("$venv/bin/python" -V)): some minutes."
began=$SECONDS
# Axolotl pins a zstandard that is compiled from its source there; the cffi that this source asks
# for does not work with Python 3.13, a later one does.
if "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then
    install setuptools wheel "cffi>=1.17"
    install --no-build-isolation "zstandard==0.22.0"
fi
install --editable ".${extra:+[$extra]}"
echo "$wanted" >"$stamp"
name_version='from importlib.metadata import version; print("Axolotl", version("axolotl"))'
echo "Installed in $((SECONDS - began)) s: $("$venv/bin/python" -c "$name_version")."
