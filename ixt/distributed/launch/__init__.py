"""Starting the processes of a run: our own agent, joining another launcher, cluster job files.

The agent is torch's (torch elastic), the queues are Slurm's and Kubernetes'; nothing here stays
behind as a service. Importing this package loads nothing heavy.
"""
