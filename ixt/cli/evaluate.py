"""`ixt eval`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import ProcessesOption, app, write_text


@app.command("eval", rich_help_panel="Use")
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A run, a checkpoint, or a weights file.")],
    data: Annotated[str, typer.Option("--data", help="Folder with val/, or s3://...")],
    model: Annotated[
        str | None, typer.Option(help="Model name, where the file does not tell it.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per forward pass.")] = None,
    decoder: Annotated[str, typer.Option(help="auto, torch or dali.")] = "auto",
    raw: Annotated[
        bool, typer.Option("--raw", help="Take raw weights, not averaged ones.")
    ] = False,
    results: Annotated[
        Path | None, typer.Option(help="Write the numbers to this JSON file.")
    ] = None,
    num_processes: ProcessesOption = None,
) -> None:
    """Measure top-1 and top-5 of a checkpoint on the validation images.

    Example: `ixt eval runs/inceptionnext_tiny --data /data/imagenet`
    """
    from ixt.launch.start import in_processes

    status = in_processes(num_processes)
    if status is not None:
        sys.exit(status)
    from ixt.assess import assess

    numbers = assess(
        checkpoint,
        data,
        model_name=model,
        batch_size=batch_size,
        decoder=decoder,
        prefer_ema=not raw,
    )
    if os.environ.get("RANK", "0") != "0":
        return
    print(
        f"top-1 {numbers['top1']:.3f}  top-5 {numbers['top5']:.3f}  loss {numbers['loss']:.4f}"
        f"  images {numbers['count']}  weights {numbers['weights']}"
    )
    if results is not None:
        write_text(results, json.dumps(numbers, indent=1) + "\n")
