"""Checkpoint files: written whole or not at all, verified when read; weights of other programs."""
