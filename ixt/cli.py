"""The command line: flags in, one call, exit status out. Commands load what they need."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ixt import __version__
from ixt.errors import Interrupted, IxtError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="An exact, resumable ImageNet trainer.",
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare and look at image folders.")
app.add_typer(data_app, name="data", rich_help_panel="Data")

RecipeArgument = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="Folder with train/ and val/ (or validation/).")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a recipe value, as optim.lr=1.0e-3; repeatable."),
]
RunDirOption = Annotated[
    Path | None, typer.Option(help="Folder of the run; runs/RECIPE if not given.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in --run-dir.")]
ProcessesOption = Annotated[
    int | None,
    typer.Option(min=1, help="Processes on this machine; one per GPU if not given."),
]


# A full disk, a used-up quota, a missing permission, a read-only file system.
_MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def main() -> None:
    """Run the program; a known error is one line and exit status 2."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        app()
    except IxtError as error:
        if os.environ.get("IXT_DEBUG"):
            raise
        _tell(str(error))
        sys.exit(2)
    except OSError as error:
        if error.errno not in _MENDABLE or os.environ.get("IXT_DEBUG"):
            raise
        _tell(f"{error.filename or 'a file'}: {error.strerror}; make room or allow it, then go on")
        sys.exit(2)
    except Interrupted as error:
        _tell(f"{error}; go on with --resume")
        sys.exit(128 + error.signum)


def _tell(message: str) -> None:
    # Imported here: the parent of several processes prints what they leave.
    from ixt.launch import leave_error

    if not leave_error(message):
        print(message, file=sys.stderr)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"ixt {__version__}")
        raise typer.Exit


@app.command(rich_help_panel="Train")
def train(
    recipe: RecipeArgument,
    data: DataOption = None,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    num_processes: ProcessesOption = None,
    overrides: SetOption = None,
) -> None:
    """Train a recipe.

    Example: `ixt train recipes/inceptionnext_tiny.yaml --data /data/imagenet`
    """
    _train(recipe, data, run_dir, resume, num_processes, overrides, source=None)


@app.command(rich_help_panel="Train")
def finetune(
    recipe: RecipeArgument,
    source: Annotated[
        Path, typer.Option("--from", help="Weights: a run, a checkpoint, or a weights file.")
    ],
    data: DataOption = None,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    num_processes: ProcessesOption = None,
    overrides: SetOption = None,
) -> None:
    """Train a recipe from the weights of another run; averaged weights are preferred.

    Example: `ixt finetune recipes/inceptionnext_base_384.yaml --from runs/inceptionnext_base
    --data /data/imagenet`
    """
    _train(recipe, data, run_dir, resume, num_processes, overrides, source)


def _train(
    name: str,
    data: str | None,
    run_dir: Path | None,
    resume: bool,
    num_processes: int | None,
    overrides: list[str] | None,
    source: Path | None,
) -> None:
    from ixt.launch import launch, launched
    from ixt.recipe import find_recipe, load_recipe

    path = find_recipe(name)
    settings = list(overrides or [])
    if data is not None:
        settings.append(f"data.root={json.dumps(data)}")
    recipe = load_recipe(path, settings)
    if not launched():
        count = num_processes or _visible_gpus()
        if count > 1:
            sys.exit(launch(sys.argv[1:], count))
    from ixt.finetune import finetune
    from ixt.train import train

    folder = run_dir or Path("runs") / path.stem
    if source is None:
        train(recipe, folder, resume)
    else:
        finetune(recipe, folder, source, resume)


def _visible_gpus() -> int:
    import torch

    return torch.cuda.device_count() or 1


@app.command("eval", rich_help_panel="Use")
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A run, a checkpoint, or a weights file.")],
    data: Annotated[str, typer.Option("--data", help="Folder with val/ (or validation/).")],
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
) -> None:
    """Measure top-1 and top-5 of a checkpoint on the validation images.

    Example: `ixt eval runs/inceptionnext_tiny --data /data/imagenet`
    """
    from ixt.assess import assess

    numbers = assess(
        checkpoint,
        data,
        model_name=model,
        batch_size=batch_size,
        decoder=decoder,
        prefer_ema=not raw,
    )
    print(
        f"top-1 {numbers['top1']:.3f}  top-5 {numbers['top5']:.3f}  loss {numbers['loss']:.4f}"
        f"  images {numbers['count']}  weights {numbers['weights']}"
    )
    if results is not None:
        _write(results.write_text, json.dumps(numbers, indent=1) + "\n", results)


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
        _write(results.write_text, json.dumps(report, indent=1) + "\n", results)


@data_app.command("demo")
def data_demo(folder: Annotated[Path, typer.Argument(help="Folder to write.")]) -> None:
    """Write scikit-learn's handwritten digits as JPEG files in the ImageNet layout."""
    from ixt.data.demo import write_demo

    summary = write_demo(folder)
    print(
        f"{summary.root}: {summary.num_train} training and {summary.num_val} validation images, "
        f"{summary.num_written} written now"
    )


@data_app.command("index")
def data_index(
    folder: Annotated[Path, typer.Argument(help="Folder with train/ and val/.")],
) -> None:
    """Build and cache the table of images that training and evaluation read."""
    from ixt.data.index import load_index

    for split in ("train", "val"):
        index = load_index(folder, split)
        print(
            f"{index.folder}: {len(index)} images, {len(index.classes)} classes, "
            f"{len(index.unreadable)} unreadable"
        )


def _write(write: Callable[[str], Any], text: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(text)
    except OSError as error:
        raise IxtError(f"{path}: cannot be written: {error.strerror}") from error
