"""The command line: flags in, one call, exit status out. Commands load what they need.

One module per command; importing it registers the command.
"""

from ixt.cli import (  # noqa: F401  importing a command registers it
    bench,
    bench_cost,
    bench_loading,
    bench_results,
    data,
    data_show,
    doctor,
    evaluate,
    explain,
    export,
    init,
    launch,
    plan,
    predict,
    report,
    runs,
    teach,
    train,
    verify,
)
from ixt.cli.app import app, main

__all__ = ["app", "main"]
