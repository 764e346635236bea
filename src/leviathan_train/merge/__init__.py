"""The command line's side of a merge: which adapter, which base, plan, publish, model card."""
