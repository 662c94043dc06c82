"""Show samples as the network sees them: the numbers of their plan, and a picture of each."""
