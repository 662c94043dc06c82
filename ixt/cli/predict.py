"""`ixt predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import app


@app.command(rich_help_panel="Use")
def predict(
    checkpoint: Annotated[Path, typer.Argument(help="A run, a checkpoint, or a weights file.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[
        str | None, typer.Option(help="Model name, where the file does not tell it.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes shown per image.")] = 5,
) -> None:
    """Name what the images show.

    Example: `ixt predict runs/demo demo-data/val/*/*.jpeg --top 1`
    """
    from ixt.predict import predict as predict_images

    for path, guesses in predict_images(checkpoint, images, model_name=model, top=top):
        named = "  ".join(f"{name} {probability:.1%}" for name, probability in guesses)
        print(f"{path}  {named}")
