"""`leviathan plot`: the curves of runs in one figure, as a page or a picture."""
