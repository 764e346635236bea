#!/usr/bin/env bash
# Train, or go on training, work/training/leviathan_full_a4000. Ctrl+C once pauses.
# Options of `leviathan train` may follow: --resume auto, --until 08:00, --set KEY=VALUE ...
set -euo pipefail

here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
exec "$here/leviathan" train configs/leviathan_full_a4000.yaml "$@"
