"""Begin a run, and look at runs: a first recipe for a set of images, the table, the report."""
