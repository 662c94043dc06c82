"""`ixt doctor`: is this installation, and this machine, fit to train?

Nothing is imported here: the processes that the network check starts load this package, and must
not load the models with it.
"""
