"""Copies of a run's sealed checkpoints at another place: what it is, what goes there and back."""
