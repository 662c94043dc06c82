"""The command line: flags in, one call, exit status out. Commands load what they need.

One module per group of commands; importing it registers them, in the order that help shows.
"""

from ixt.cli import train  # isort: split

from ixt.cli import evaluate, predict  # isort: split

from ixt.cli import data  # isort: split

from ixt.cli import bench, bench_output
from ixt.cli.app import app, main

__all__ = ["app", "bench", "bench_output", "data", "evaluate", "main", "predict", "train"]
