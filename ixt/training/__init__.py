"""Training: the loop, what a run is built from, the optimizer and the average of its weights."""
