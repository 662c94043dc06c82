"""Triton's twins of the plain operators beside this folder: the same names, arguments, results.

Nothing here is imported before a tensor on a CUDA device asks for it, so that machines without
Triton never miss it. With TRITON_INTERPRET=1 in the environment before, the same code runs on CPU
tensors.
"""
