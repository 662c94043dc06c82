"""`ixt bench models`: every cell of a matrix timed in a process of its own."""
