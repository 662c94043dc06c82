"""`ixt init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ixt.cli.app import app, say
from ixt.errors import RecipeError
from ixt.files import check_outputs, write_text

if TYPE_CHECKING:
    from ixt.runs.image_set import ImageSet


ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        show_default="a choice that fits the images",
        help="Name of the model. Needed with --from if the file does not contain it.",
    ),
]


@app.command(rich_help_panel="Train")
def init(
    data: str,
    output: Path = Path("recipe.yaml"),
    source: Annotated[Path | None, typer.Option("--from", metavar="WEIGHTS")] = None,
    model: ModelOption = None,
    no_mirror: bool = False,
    force: bool = False,
) -> None:
    """Write a first recipe for your own images.

    Comments in the recipe give a reason for each number. Then train it with
    `ixt train recipe.yaml`. If there is no val/, some of the images are held out for validation; no
    file is moved.

    Example: `ixt init photos`

    Args:
        data: Folder with one folder of images per class, or with train/ and val/.
        output: Recipe file to write.
        source: Weights to fine-tune: a run, a checkpoint, or a weights file.
        no_mirror: Never mirror images, e.g. because they show digits or letters.
        force: Replace the output file if it exists.
    """
    check_outputs(output)
    if output.exists() and not force:
        raise RecipeError(f"{output}: exists; give --force to replace it, or another --output")

    from ixt.runs.first_recipe import recipe_from_scratch, recipe_to_finetune
    from ixt.runs.image_set import look_at
    from ixt.runs.pace import this_machine

    images, machine = look_at(data), this_machine()
    if source is None:
        lines = recipe_from_scratch(images, machine, model, not no_mirror)
        train = f"ixt train {shlex.quote(str(output))}"
    else:
        lines = recipe_to_finetune(images, machine, source, model, not no_mirror)
        train = f"ixt finetune {shlex.quote(str(output))} --from {shlex.quote(str(source))}"
    facts = _facts(images)
    write_text(output, lines.text([f"{facts}.", "", f"  {train}", ""]))
    recipe = lines.recipe()
    say(f"{data}: {facts}")
    say(
        f"{output}: {recipe.model.name} at {recipe.augment.image_size} pixels, "
        f"{recipe.schedule.epochs} epochs, {recipe.engine.global_batch_size} images per update"
    )
    folder, path = shlex.quote(data), shlex.quote(str(output))
    say(f"look at the samples: ixt data show {folder} --recipe {path} --out samples.png")
    say(f"train:               {train}")


def _facts(images: ImageSet) -> str:
    held = " held out" if images.val_fraction is not None else ""
    return (
        f"{images.num_train:,} training and {images.num_val:,} validation images{held}, "
        f"{len(images.classes):,} classes"
    )
