"""Begin a run, look at runs, and report on them."""
