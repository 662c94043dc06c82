"""`ixt report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import app, say
from ixt.files import check_outputs


@app.command(rich_help_panel="Use")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN")],
    output: Annotated[
        Path | None,
        typer.Option(
            show_default="report.html in the run's folder, or comparison.html for several runs"
        ),
    ] = None,
) -> None:
    """Write an HTML page about a run, or one that compares several.

    The page is a single file that needs no network. For one run it shows the curves, confused
    classes, mistakes, accuracy per class, calibration and the recipe. For several runs it shows
    their curves together and the differences between their recipes. Training also writes the page
    of its run, at every evaluation.

    Example: `ixt report runs/inceptionnext_tiny`

    Args:
        runs: Folder of a run; several are compared.
        output: HTML file to write.
    """
    from ixt.runs.report.files import write_report

    check_outputs(output)
    say(str(write_report(runs, output)))
