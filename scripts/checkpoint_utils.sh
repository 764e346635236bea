# shellcheck shell=bash
# Shell functions around `leviathan checkpoints`, for bash and zsh:
#
#     source scripts/checkpoint_utils.sh
#     list_checkpoints       [RUN]
#     latest_checkpoint      [RUN]
#     cleanup_checkpoints    RUN N
#     export_checkpoint_info RUN FILE.json|FILE.csv
#     force_checkpoint       [RUN]
#
# RUN is a run's folder or name; left out, it is the run used last. A path is first looked for
# in the current folder, then in the repository.

if [ -n "${BASH_VERSION:-}" ]; then
    _leviathan_scripts=${BASH_SOURCE[0]}
else
    _leviathan_scripts=$0 # zsh: the file that is being sourced
fi
case $_leviathan_scripts in
    /*) ;;
    *) _leviathan_scripts=$PWD/$_leviathan_scripts ;;
esac
_leviathan_scripts=${_leviathan_scripts%/*}

# _leviathan RUN COMMAND...: run COMMAND on RUN, or on the run used last if RUN is empty.
_leviathan() {
    local run=$1
    shift
    if [ -n "$run" ]; then
        case $run in
            /*) ;;
            *) if [ -e "$run" ]; then run=$PWD/$run; fi ;;
        esac
        set -- "$@" -- "$run"
    fi
    "$_leviathan_scripts/leviathan" "$@"
}

list_checkpoints() {
    _leviathan "${1:-}" checkpoints list
}

latest_checkpoint() {
    _leviathan "${1:-}" checkpoints latest
}

# Keep the N newest, and the best besides, without a question.
cleanup_checkpoints() {
    if [ $# -ne 2 ]; then
        echo "usage: cleanup_checkpoints RUN N" >&2
        return 2
    fi
    _leviathan "$1" checkpoints cleanup --keep "$2" --yes
}

export_checkpoint_info() {
    if [ $# -ne 2 ]; then
        echo "usage: export_checkpoint_info RUN FILE.json|FILE.csv" >&2
        return 2
    fi
    case $2 in
        /*) _leviathan "$1" checkpoints export --output "$2" ;;
        *) _leviathan "$1" checkpoints export --output "$PWD/$2" ;;
    esac
}

# Have a running training write a checkpoint now and go on.
force_checkpoint() {
    _leviathan "${1:-}" save
}
