"""How processes start, find each other, train one model together and stop together."""
