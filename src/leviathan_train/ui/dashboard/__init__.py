"""`leviathan status --watch`: the live screen."""
