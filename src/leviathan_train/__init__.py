"""Safe stop, resume, inspection and pruning for Axolotl LoRA runs."""

__version__ = "0.1.0"
