"""The store: find, seal, verify, select, keep and delete checkpoints."""
