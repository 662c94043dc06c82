"""Begin a run, and look at runs: a first recipe, the table, the report, are files as written."""
