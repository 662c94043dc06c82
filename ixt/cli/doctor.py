"""`ixt doctor`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import app, uncollected
from ixt.cli.options import DataOption


@app.command(rich_help_panel="Measure")
def doctor(
    data: DataOption = None,
    run_dir: Annotated[Path, typer.Option(metavar="DIR")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Check the installation and this machine.

    Started by torchrun, it checks every machine and the network between them. Exit status: 0, or 1
    if it finds a problem that would stop a run.

    Example: `ixt doctor --data /data/imagenet`

    Args:
        run_dir: Folder for runs, checked for space and permissions.
        as_json: Print the results as JSON.
    """
    with uncollected():
        from ixt.bench.doctor.examine import examine
        from ixt.bench.doctor.result import print_results, results_data

    results = examine(data, run_dir)
    if os.environ.get("RANK", "0") == "0":
        if as_json:
            print(json.dumps(results_data(results), indent=1))
        else:
            print_results(results)
    if any(result.status == "fail" for result in results):
        raise typer.Exit(1)
