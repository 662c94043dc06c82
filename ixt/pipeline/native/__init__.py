"""C code for CPUs: what takes most of a loader's time, at several times the speed of operators.

Nothing depends on it but speed: each function gives, bit for bit, what the code that it stands in
for gives, and that code runs where no compiler is installed.
"""
