"""`ixt bench`: training and inference throughput in both memory formats."""

from ixt.bench.matrix import bench_models
from ixt.bench.table import print_table

__all__ = ["bench_models", "print_table"]
