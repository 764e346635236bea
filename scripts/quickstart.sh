#!/usr/bin/env bash
# From nothing to a trained and merged model, on any machine with Python 3.11 to 3.13: no GPU,
# no hub. It trains a tiny model, pauses half-way, resumes and merges. What is done is skipped.
set -euo pipefail

cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."

CONFIG=configs/demo_cpu.yaml
RUN=demo_cpu
RUN_DIR=work/training/$RUN
MERGED=models/$RUN-merged
PAUSED=75

say() { printf '\n%s\n' "$*"; }

# Begin a part, and say how long the one before it took.
began=
part() {
    if [[ -n $began ]]; then
        echo "   $((SECONDS - began)) s"
    fi
    say "$@"
    began=$SECONDS
}

run() {
    echo "\$ $*"
    "$@"
}

# Another terminal's part: pause the run once it is half-way.
pause_half_way() {
    local half='import json, sys; s = json.load(sys.stdin)
sys.exit(not 0 < s["max_steps"] <= 2 * s["step"])'
    until leviathan status "$RUN" --json 2>/dev/null | python -c "$half" 2>/dev/null; do
        sleep 0.5
    done
    printf '\n$ leviathan pause %s    # from another terminal\n' "$RUN"
    leviathan pause "$RUN" >/dev/null 2>&1
}

# Train. End here if it failed or Ctrl+C stopped it, but not after the watcher's pause.
train() {
    local status=0
    run leviathan train "$CONFIG" --resume auto || status=$?
    if [[ -n $interrupted ]]; then
        say "To resume: ./scripts/quickstart.sh"
        exit "$status"
    fi
    if ((status != 0 && status != PAUSED)); then
        exit "$status"
    fi
}

interrupted=
trap 'interrupted=yes' INT

part "1. The environment"
scripts/make_venv.sh
echo "$(.venv/bin/python -V) and Axolotl are in .venv."
PATH=$PWD/.venv/bin:$PATH

part "2. A tiny model and a small data set"
run python scripts/make_demo.py

if ! compgen -G "$RUN_DIR/checkpoint-*" >/dev/null; then
    part "3. Training until it is paused half-way from another terminal"
    pause_half_way &
    watcher=$!
    trap 'kill "$watcher" 2>/dev/null || true' EXIT
    train
    kill "$watcher" 2>/dev/null || true
    run leviathan checkpoints list "$RUN"
fi

part "4. Resuming from the pause and training to the end"
train

part "5. Merging the adapter into its base"
if [[ -e $MERGED ]]; then
    echo "$MERGED exists already."
else
    run leviathan merge "$RUN"
fi

part "Done in $SECONDS s: $MERGED is a standalone model; the run is in $RUN_DIR."
