"""The command line's side of a training: which checkpoint, which command, start, follow, end."""
