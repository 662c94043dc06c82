"""The data plan: every random choice about data as a pure function of (seed, epoch, position)."""
