"""What a run reports while it trains, and what watches it: hangs, spikes, slow processes."""
