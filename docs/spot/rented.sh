#!/usr/bin/env bash
# A rented machine: train, and switch it off when nothing is left to do.
#
#     nohup ./rented.sh my-lora.yaml s3://my-bucket/runs &
#
# Start it again on the next machine, with the same config and data, until it says "finished".
set -uo pipefail

config=${1:?usage: rented.sh CONFIG MIRROR}
mirror=${2:?usage: rented.sh CONFIG MIRROR}

leviathan train "$config" --mirror "$mirror" --resume auto --max-restarts 3
status=$?
case $status in
    0) echo "finished" ;;
    75) echo "paused: start it again here or elsewhere" ;;
    *) echo "exit status $status: not switched off, so that you can look"; exit "$status" ;;
esac
if [[ -n ${SWITCH_OFF:-} ]]; then
    sudo shutdown now
fi
exit "$status"
