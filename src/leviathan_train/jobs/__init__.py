"""Processes of their own that need torch: `python -m leviathan_train.jobs.NAME`."""
