"""The command line: flags in, one call, exit status out. Commands load what they need.

One module per group of commands; importing it registers them, in the order that help shows.
"""

from ixt.cli import train  # isort: split

from ixt.cli import plan  # isort: split

from ixt.cli import launch  # isort: split

from ixt.cli import evaluate, export, predict  # isort: split

from ixt.cli import data, data_look, data_pack, data_prepare  # isort: split

from ixt.cli import bench, bench_output, doctor
from ixt.cli.app import app, main

__all__ = [
    "app",
    "bench",
    "bench_output",
    "data",
    "data_look",
    "data_pack",
    "data_prepare",
    "doctor",
    "evaluate",
    "export",
    "launch",
    "main",
    "plan",
    "predict",
    "train",
]
