"""`ixt bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import app, write_text


@app.command(rich_help_panel="Measure")
def bench(
    models: Annotated[list[str], typer.Argument(help="Model names.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 128,
    image_size: Annotated[int | None, typer.Option(min=1, help="Side in pixels.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, tf32 or amp-bf16.")] = "tf32",
    seconds: Annotated[float, typer.Option(min=0.1, help="Time measured per cell.")] = 10.0,
    results: Annotated[Path | None, typer.Option(help="Write the rows to this JSON file.")] = None,
) -> None:
    """Measure training and inference images per second in both memory formats.

    Example: `ixt bench inceptionnext_tiny convnext_tiny resnet50`
    """
    from ixt.bench import bench_models, print_table

    report = bench_models(models, batch_size, image_size, precision, seconds)
    print_table(report)
    if results is not None:
        write_text(results, json.dumps(report, indent=1) + "\n")
