"""Begin a run: a first recipe for a set of images."""
