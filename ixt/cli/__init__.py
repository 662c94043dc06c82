"""The command line: flags in, one call, exit status out. Commands load what they need.

One module per group of commands; importing it registers them, in the order that help shows.
"""

from ixt.cli import (
    bench,
    bench_data,
    bench_output,
    data,
    data_look,
    data_pack,
    data_prepare,
    doctor,
    evaluate,
    export,
    launch,
    plan,
    predict,
    train,
)
from ixt.cli.app import app, main

__all__ = [
    "app",
    "bench",
    "bench_data",
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
