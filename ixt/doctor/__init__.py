"""`ixt doctor`: is this installation, and this machine, fit to train?

`examine` runs the checks and `report` shows them. Nothing is imported here: the processes that the
network check starts load this package, and must not load the models with it.
"""
