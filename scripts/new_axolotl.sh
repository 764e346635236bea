#!/usr/bin/env bash
# Try this project with a version of Axolotl, whatever pyproject.toml allows.
#
#     ./scripts/new_axolotl.sh VERSION [--python VERSION] [PYTEST ARGUMENTS...]
#
# A copy of the project in build/axolotl-VERSION, with an environment of its own, says which
# libraries differ from those in .venv and runs the tests that depend on Axolotl.
set -euo pipefail

version=${1:?"which version of Axolotl? For example 0.21.0"}
shift
root=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
cd -- "$root"
copy=build/axolotl-$version
choice=()
if [[ ${1:-} == --python ]]; then
    choice=(--python "${2:?"--python needs a version, for example 3.12"}")
    shift 2
fi

# What was deleted here must go there, too; the environment stays.
mkdir -p "$copy"
find "$copy" -mindepth 1 -maxdepth 1 ! -name '.venv*' -exec rm -rf {} +
git ls-files -z --cached --others --exclude-standard | xargs -0 -r cp -P --parents -t "$copy"
sed -i "s/\"axolotl>=.*\"/\"axolotl==$version\"/" "$copy/pyproject.toml"
cd -- "$copy"
scripts/make_venv.sh "${choice[@]}" dev
python=$PWD/.venv${choice[1]:+-${choice[1]}}/bin/python

versions='from importlib.metadata import distributions
print(*sorted({f"{d.name.lower()} {d.version}" for d in distributions()}), sep="\n")'
if [[ -x $root/.venv/bin/python ]]; then
    echo "Versions that differ: - in .venv, + with Axolotl $version"
    known=' (accelerate|axolotl|bitsandbytes|datasets|peft|safetensors|torch|torchao|transformers|trl) '
    diff <("$root/.venv/bin/python" -c "$versions") <("$python" -c "$versions") |
        sed -n 's/^</  -/p; s/^>/  +/p' | grep -E "$known" || true
fi
exec "$python" -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "axolotl or slow" "$@"
