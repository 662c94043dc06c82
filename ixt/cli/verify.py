"""`ixt verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import app
from ixt.files import check_outputs, write_json


@app.command(rich_help_panel="Use")
def verify(
    path: Annotated[Path, typer.Argument(help="A run, a checkpoint, a packed set, or an export.")],
    data: Annotated[
        str | None,
        typer.Option(help="Compare these images with those of the run or the packed set."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="PUBLIC",
            help="Compare the signature of an export with this public key, a PEM file.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the findings to this file.")
    ] = None,
) -> None:
    """Check that files are as they were written: checksums, rows, recipe, and data.

    Nothing is changed. Exit status: 0 if all is well, 1 if something is wrong, 2 if there is
    nothing to check.

    Example: `ixt verify runs/inceptionnext_tiny --data /data/imagenet`
    """
    check_outputs(json_file)
    from ixt.verify import verify as find

    findings = find(path, data, key)
    for finding in findings:
        print(finding)
    ok = all(finding.ok for finding in findings)
    if json_file is not None:
        rows = [vars(finding) for finding in findings]
        write_json(json_file, {"path": str(path), "ok": ok, "findings": rows})
    if not ok:
        raise typer.Exit(1)
