"""Begin a run and look at runs."""
