"""What watches over a run while it trains: hangs, losses that are not finite, slow processes."""
