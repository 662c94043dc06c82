"""`ixt teach`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import app, resumable, say, uncollected
from ixt.cli.options import DataOption, RecipeArgument, SetOption, all_overrides
from ixt.cli.progress import progress
from ixt.errors import IxtError


@app.command(rich_help_panel="Train")
def teach(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option(metavar="DIR")],
    data: DataOption = None,
    epochs: Annotated[
        str | None, typer.Option(metavar="A:B", show_default="all of the recipe")
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="K", min=1, show_default="10, or all of up to 32")
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Write a teacher's outputs for the images of training.

    Training with --set teacher.cache=DIR then reads them and needs no teacher. The folder is valid
    for one teacher, one training set, and one seed, augmentation, curriculum and batch size; model,
    optimizer and number of processes may differ. The same command continues a stopped one.

    Example: `ixt teach inceptionnext_tiny_distilled --data /data/imagenet --out teacher-cache`

    Args:
        out: Folder to write the outputs to.
        epochs: Epochs from A to B, without B, counted from 0.
        top: Number of most probable classes to keep of each image; all others share the rest of the
            probability.
    """
    from ixt.recipe import find_recipe, load_recipe

    found = load_recipe(find_recipe(recipe), all_overrides(overrides, data))
    bounds = _epochs(epochs, found.schedule.total_epochs)
    with uncollected():
        from ixt.training.teach import teach as write
    with resumable(), progress("teaching", "images") as report:
        write(found, out, bounds, top, say, report)


def _epochs(text: str | None, count: int) -> slice:
    """The bounds of `--epochs`."""
    match = re.fullmatch(r"(\d*):(\d*)", text or ":")
    first, end = (int(match[1] or 0), int(match[2] or count)) if match else (0, 0)
    if not first < end <= count:
        raise IxtError(f"--epochs {text}: give A:B with A below B, from 0 to {count}")
    return slice(first, end)
