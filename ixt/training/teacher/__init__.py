"""Distillation: the teacher of a run, computing beside the model or read from a cache."""
