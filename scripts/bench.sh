#!/usr/bin/env bash
# Measure what the project claims about speed, and write docs/performance.md.
#
#     ./scripts/bench.sh [--quick]
#
# Every figure is a ratio against a peer, taken in one run on this machine: some forty minutes on
# two cores that do nothing else; --quick takes fewer rounds. Interrupted, it continues where it
# was: each part is kept in work/bench; delete that folder to begin anew.
set -euo pipefail

cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."
scripts/make_venv.sh dev
python=.venv/bin/python
pairs=5 rounds=3 steps=2200 runs=(10 1000 100000)
if [[ ${1:-} == --quick ]]; then
    pairs=1 rounds=1 steps=600 runs=(10 1000)
fi
page=docs/performance.md
parts=work/bench
mkdir -p "$parts"

run() {
    local title=$1
    local part="$parts/$title.md"
    shift
    if [[ ! -f $part ]]; then
        echo "$title..." >&2
        {
            printf '\n## %s\n\n    python %s\n\n```\n' "$title" "$*"
            "$python" "$@"
            printf '```\n'
        } >"$part.new"
        mv -- "$part.new" "$part"
    fi
    cat -- "$part" >>"$parts/all"
}
: >"$parts/all"
run "A whole training beside plain Axolotl" bench/train.py --pairs "$pairs" --steps "$steps"
if [[ $EUID == 0 ]]; then # only root may drop the page cache
    run "The same start with nothing in memory" bench/train.py --cold --pairs "$pairs" --steps 60
    run "Reading ahead what a start will read" bench/ahead.py --rounds "$pairs"
    run "Reading ahead on a disk of 500 MB a second" \
        bench/ahead.py --rounds "$pairs" --disk 500:10000
    run "Reading ahead on a disk of 150 MB a second" \
        bench/ahead.py --rounds "$rounds" --disk 150:3000
fi
run "What the plugin costs in each step" bench/step.py
run "A resume deep in an epoch" bench/resume.py --rounds "$rounds"
run "Copies elsewhere" bench/mirror.py --rounds "$rounds"
run "Seal, verify, cleanup" bench/store.py --rounds "$rounds"
run "Listing checkpoints" bench/list.py --rounds "$((rounds * 5))"
run "Many runs, sessions and ranks" bench/scale.py --runs "${runs[@]}"
run "A look at 100,000 rows before a training" bench/check.py
run "Merging" bench/merge.py --rounds "$rounds"

"$python" - "$page" "$parts/all" <<'PYTHON'
import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import psutil

page, part = map(Path, sys.argv[1:])
text = page.read_text(encoding="utf-8")
names = ("axolotl", "transformers", "torch")
versions = ", ".join(f"{name} {version(name)}" for name in names)
memory = psutil.virtual_memory().total / 2**30
machine = (
    f"{date.today()}, {psutil.cpu_count()} CPU cores, {memory:.0f} GB of memory, no GPU used, Linux"
    f" {platform.release().split('-')[0]}, Python {platform.python_version()}, {versions}."
)
mark = "<!-- by scripts/bench.sh -->\n"
page.write_text(f"{text.partition(mark)[0]}{mark}\n{machine}\n{part.read_text()}", encoding="utf-8")
PYTHON
echo "Written: $page"
