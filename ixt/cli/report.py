"""`ixt report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import app, say
from ixt.files import check_outputs


@app.command(rich_help_panel="Use")
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folder of a run, or of several.")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="HTML file to write; if not given, report.html in the run's folder, and "
            "comparison.html here for several runs."
        ),
    ] = None,
) -> None:
    """Write the page of a run again, or one page that compares several.

    The page is one file that opens without a network. Of one run it shows curves, confusions,
    mistakes, classes, calibration and the recipe; of several the curves in one plot each, and
    where the recipes differ. Training writes it at every evaluation.

    Example: `ixt report runs/inceptionnext_tiny`
    """
    from ixt.runs.report.files import write_report

    check_outputs(output)
    say(str(write_report(runs, output)))
