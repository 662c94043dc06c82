"""What a split holds: numbers of its index, and of its pixels."""
