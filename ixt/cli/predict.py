"""`ixt predict`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ixt.cli.app import app, say
from ixt.cli.imports import uncollected
from ixt.cli.options import DecoderOption, ModelOption, RawOption
from ixt.files import check_outputs

if TYPE_CHECKING:
    from ixt.predict import Outcome


GridOption = Annotated[
    Path | None, typer.Option(help="Draw the images with their classes into this PNG file.")
]
CamOption = Annotated[
    Path | None,
    typer.Option(help="Draw where the model looked: a PNG file, or a folder for one each."),
]
CamClassOption = Annotated[
    str | None,
    typer.Option(help="Look for this class (name or number), not the most probable one."),
]


@app.command(rich_help_panel="Use")
def predict(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A run (its newest checkpoint; RUN@best, RUN@step-120 for another), a checkpoint, "
            "a weights file; a model with --pretrained."
        ),
    ],
    images: Annotated[
        list[str], typer.Argument(help="Files, folders, quoted patterns; - for standard input.")
    ],
    model: ModelOption = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Take the published weights of the model named.")
    ] = False,
    raw: RawOption = False,
    top: Annotated[int, typer.Option(min=1, help="Classes shown per image.")] = 5,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per forward pass.")] = None,
    decoder: DecoderOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per image.")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV, a row per image and class.")
    ] = False,
    grid: GridOption = None,
    cam: CamOption = None,
    cam_class: CamClassOption = None,
) -> None:
    """Name what images show, prepared as the evaluation prepares them.

    A folder stands for the images below it. Standard input holds one image, or paths, one per
    line. Exit status: 0 if all is well, 1 if some images could not be read (a line on standard
    error names each; the others are not held up), 2 if none could be or nothing else could be done.

    Example: `ixt predict runs/demo demo-data/val/three --top 3 --grid three.png`
    """
    from ixt.errors import IxtError

    with uncollected(at_exit=True):
        from ixt.models.out_of_memory import memory_for
        from ixt.predict import Album, open_classifier, open_inputs
        from ixt.predict import predict as predict_images

    show = _printer(as_json, as_csv)
    check_outputs(grid, cam if cam is not None and cam.suffix else None)
    if pretrained and (model is not None or raw):
        raise IxtError("--pretrained takes published weights; leave out --model and --raw")
    problems: list[str] = []
    with open_inputs(images) as files:
        num_images = len(files)
        classifier = open_classifier(
            checkpoint,
            model_name=model,
            pretrained=pretrained,
            prefer_ema=not raw,
            batch_size=batch_size,
            decoder=decoder,
        )
        album = Album(classifier, grid=grid, cam=cam, cam_class=cam_class)
        outcomes = album.watch(predict_images(classifier, files, top=top))
        size = classifier.recipe.eval.batch_size
        with memory_for(f"--batch-size {size}", "lower it"):
            show(_telling(outcomes, problems))
        for path in album.save():
            say(str(path), error=True)
    nothing_read = len(problems) == num_images
    raise typer.Exit(2 if nothing_read else 1 if problems else 0)


def _printer(as_json: bool, as_csv: bool) -> Callable[[Iterable[Outcome]], None]:
    from ixt.errors import IxtError
    from ixt.predict import print_csv, print_json, print_table

    if as_json and as_csv:
        raise IxtError("--json and --csv exclude each other; give one of them")
    return print_json if as_json else print_csv if as_csv else print_table


def _telling(outcomes: Iterable[Outcome], problems: list[str]) -> Iterator[Outcome]:
    """Pass outcomes on; say at once what could not be read, and note it."""
    for outcome in outcomes:
        if outcome.problem is not None:
            say(outcome.problem, error=True)
            problems.append(outcome.problem)
        yield outcome
