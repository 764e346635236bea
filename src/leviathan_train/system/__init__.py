"""Facts of the machine: files, processes, signals, GPUs, units. Nothing of training."""
