"""One `output_dir` and the records of its sessions: the only channel between the two processes."""
