"""`ixt predict`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ixt.cli.app import app, say, uncollected
from ixt.cli.options import DecoderOption, ModelOption, RawOption, advanced, output
from ixt.errors import IxtError
from ixt.files import check_outputs

if TYPE_CHECKING:
    from ixt.predict import Outcome


@dataclass(frozen=True)
class Output:
    """What is printed and drawn.

    Attributes:
        as_json: Print one JSON object per image.
        as_csv: Print CSV, one row per image and class.
        grid: Draw the images with their classes into this PNG file.
        cam: Draw the class activation maps: which parts of an image decided. A PNG file for all
            images (FILE-1.png and so on for many), or a folder for one file per image.
        cam_class: Class of the activation maps of --cam, by name or number.
    """

    as_json: Annotated[bool, output("--json")] = False
    as_csv: Annotated[bool, output("--csv")] = False
    grid: Annotated[Path | None, output()] = None
    cam: Annotated[Path | None, output(metavar="PATH")] = None
    cam_class: Annotated[
        str | None, output(metavar="CLASS", show_default="the most probable class")
    ] = None


@app.command(rich_help_panel="Use")
def predict(
    checkpoint: str,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE")],
    model: ModelOption = None,
    pretrained: bool = False,
    raw: RawOption = False,
    top: Annotated[int, typer.Option(min=1)] = 5,
    batch_size: Annotated[int | None, advanced(min=1, show_default="that of the recipe")] = None,
    decoder: DecoderOption = "auto",
    *,
    output: Output,
) -> None:
    """Classify images with a checkpoint.

    Images are prepared as in evaluation. A folder stands for all images in it and below it.
    Standard input contains one image, or one path per line.

    Exit status: 0 if all images were classified, 1 if some could not be read (one line on standard
    error names each; the others are classified), 2 if none could be read or for a mistake of the
    user.

    Example: `ixt predict runs/demo demo-data/val/three --top 3 --grid three.png`

    Args:
        checkpoint: A run (its newest checkpoint; RUN@best or RUN@step-120 names another one), a
            checkpoint, or a weights file. With --pretrained: name of a model.
        images: Files, folders, or quoted patterns; - for standard input.
        pretrained: Use the weights that timm publishes for a model.
        top: Number of classes to show per image.
        batch_size: Number of images per forward pass.
    """
    from ixt.checkpoint.weight_files import check_weights, may_name_a_model

    _check(output)
    if pretrained and (model is not None or raw):
        raise IxtError("--pretrained takes published weights; leave out --model and --raw")
    # What is no checkpoint is refused before torch is imported, which takes seconds.
    is_name = pretrained or may_name_a_model(checkpoint)
    source = checkpoint if is_name else check_weights(checkpoint, prefer_ema=not raw)
    with uncollected(at_exit=True):
        from ixt.models.out_of_memory import memory_for
        from ixt.predict import Album, open_classifier, open_inputs
        from ixt.predict import predict as predict_images

    show = _printer(output)
    problems: list[str] = []
    with open_inputs(images) as files:
        classifier = open_classifier(
            source,
            model_name=model,
            pretrained=pretrained,
            prefer_ema=not raw,
            batch_size=batch_size,
            decoder=decoder,
        )
        album = Album(classifier, grid=output.grid, cam=output.cam, cam_class=output.cam_class)
        outcomes = album.watch(predict_images(classifier, files, top=top))
        size = classifier.recipe.eval.batch_size
        with memory_for(f"--batch-size {size}", "lower it"):
            show(_telling(outcomes, problems))
        for path in album.save():
            say(str(path), error=True)
        nothing_read = len(problems) == len(files)
    raise typer.Exit(2 if nothing_read else 1 if problems else 0)


def _check(output: Output) -> None:
    """Refuse what cannot be printed or written."""
    cam = output.cam
    check_outputs(output.grid, cam if cam is not None and cam.suffix else None)
    if output.as_json and output.as_csv:
        raise IxtError("--json and --csv exclude each other; give one of them")


def _printer(output: Output) -> Callable[[Iterable[Outcome]], None]:
    from ixt.predict import print_csv, print_json, print_table

    return print_json if output.as_json else print_csv if output.as_csv else print_table


def _telling(outcomes: Iterable[Outcome], problems: list[str]) -> Iterator[Outcome]:
    """Pass outcomes on; say at once what could not be read, and note it."""
    for outcome in outcomes:
        if outcome.problem is not None:
            say(outcome.problem, error=True)
            problems.append(outcome.problem)
        yield outcome
