"""`ixt verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import app, say
from ixt.errors import Interrupted
from ixt.files import check_outputs, write_json


@app.command(rich_help_panel="Use")
def verify(
    path: Path,
    data: Annotated[str | None, typer.Option(metavar="DIR")] = None,
    replay: Annotated[int | None, typer.Option(metavar="N", min=1)] = None,
    key: Annotated[Path | None, typer.Option(metavar="KEY")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Check that the files of a run or an export are unchanged.

    Checksums, log rows, recipe and data are compared with what was recorded; nothing is changed.
    Exit status: 0 if everything is correct, 1 if something is wrong, 2 if there is nothing to check
    or a window cannot be trained on this machine.

    Example: `ixt verify runs/inceptionnext_tiny --data /data/imagenet`

    Args:
        path: A run, a checkpoint (or RUN@best), a packed set, or an export.
        data: Compare these images with those of the run or of the packed set.
        replay: Train N windows of a run again (the steps between two checkpoints) in a temporary
            folder, and compare the weights: bit for bit with the same software and hardware, else
            within bounds.
        key: Check the signature of an export with this public key, a PEM file.
        json_file: Write the findings to this file, as JSON.
    """
    check_outputs(json_file)
    from ixt.runs.verify import verify as find

    try:
        findings = find(path, data, replay, key)
    except Interrupted as error:
        say("stopped; nothing was changed", error=True)
        raise typer.Exit(128 + error.signum) from None
    for finding in findings:
        print(finding)
    ok = all(finding.ok for finding in findings)
    if json_file is not None:
        rows = [vars(finding) for finding in findings]
        content = {"path": str(path), "ok": ok, "status": int(not ok), "findings": rows}
        write_json(json_file, content)
    if not ok:
        raise typer.Exit(1)
