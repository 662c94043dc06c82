"""`ixt eval`."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ixt.cli.app import ProcessesOption, app, write_text

if TYPE_CHECKING:
    from ixt.evaluate.examine import Report
    from ixt.evaluate.outcome import Outcome

_SOURCE, _IMAGES, _SETTINGS, _OUTPUT = "Weights", "Test set", "How", "Results"


@app.command("eval", rich_help_panel="Use")
def evaluate(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            metavar="CHECKPOINT...",
            help="Runs, checkpoints or weights files; several are compared. "
            "Model names with --pretrained.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="Folder with val/, class folders, or numbered validation images; or s3://...",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Model name, where a file does not tell it.", rich_help_panel=_SOURCE),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained", help="Published weights of timm's hub.", rich_help_panel=_SOURCE
        ),
    ] = False,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Take raw weights, not averaged ones.", rich_help_panel=_SOURCE),
    ] = False,
    average: Annotated[
        str | None,
        typer.Option(
            metavar="best:N|last:N",
            help="Average the weights of a run's checkpoints.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    bn_stats: Annotated[
        Literal["average", "recompute"],
        typer.Option(
            help="Batch-norm statistics: as they are (of --average: averaged), or recomputed "
            "from images of train/.",
            rich_help_panel=_SOURCE,
        ),
    ] = "average",
    labels: Annotated[
        str,
        typer.Option(
            metavar="auto|folders|ilsvrc|real|FILE",
            help="What is right: class folders, the challenge's labels by file number, ImageNet "
            "ReaL, a JSON list of lists like ReaL's, or a table `file,class`.",
            rich_help_panel=_IMAGES,
        ),
    ] = "auto",
    class_map: Annotated[
        Path | None,
        typer.Option(
            help="Class folder of each output: a line each, or JSON {folder: output}.",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    compete: Annotated[
        Literal["auto", "all", "present"],
        typer.Option(
            help="Which outputs may be predicted: all, or those of the classes present; "
            "auto: present for ImageNet-A and -R.",
            rich_help_panel=_IMAGES,
        ),
    ] = "auto",
    skip_damaged: Annotated[
        bool,
        typer.Option(
            "--skip-damaged", help="Leave unreadable images out.", rich_help_panel=_IMAGES
        ),
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per forward pass.", rich_help_panel=_SETTINGS)
    ] = None,
    decoder: Annotated[
        Literal["auto", "torch", "dali", "both", "exact"],
        typer.Option(
            help="exact: timm's pixels, by Pillow; both: torch and DALI, compared.",
            rich_help_panel=_SETTINGS,
        ),
    ] = "auto",
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Side of the test image; tries each.",
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    crop_pct: Annotated[
        str | None,
        typer.Option(
            metavar="X[,X...]", help="Share that is kept; tries each.", rich_help_panel=_SETTINGS
        ),
    ] = None,
    tta: Annotated[
        Literal["flip"] | None,
        typer.Option(
            help="flip: mean logits of image and mirror image.", rich_help_panel=_SETTINGS
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        typer.Option(help="The recipe's, or fp32.", rich_help_panel=_SETTINGS),
    ] = None,
    num_processes: ProcessesOption = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Write numbers and protocol as JSON.", rich_help_panel=_OUTPUT),
    ] = None,
    append: Annotated[
        Path | None,
        typer.Option(help="Add a line per measurement to a JSONL file.", rich_help_panel=_OUTPUT),
    ] = None,
    per_class: Annotated[
        Path | None, typer.Option(help="Write a CSV row per class.", rich_help_panel=_OUTPUT)
    ] = None,
    confusions: Annotated[
        Path | None,
        typer.Option(help="Write confused pairs as CSV, most first.", rich_help_panel=_OUTPUT),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Write a CSV row per image.", rich_help_panel=_OUTPUT)
    ] = None,
) -> None:
    """Measure top-1 and top-5 of checkpoints, every image counted once.

    Example: `ixt eval runs/inceptionnext_tiny --data /data/imagenet`
    """
    from ixt.launch.start import in_processes

    status = in_processes(num_processes)
    if status is not None:
        sys.exit(status)
    from ixt.evaluate.candidates import Source
    from ixt.evaluate.command import Settings, assess

    settings = Settings(
        batch_size=batch_size,
        decoders=("torch", "dali") if decoder == "both" else (decoder,),
        image_sizes=tuple(_numbers("--image-size", image_size, int)),
        crop_pcts=tuple(_numbers("--crop-pct", crop_pct, float)),
        precision=precision,
        flip=tta == "flip",
        labels=labels,
        class_map=class_map,
        compete=compete,
        bn_stats=bn_stats,
        skip_damaged=skip_damaged,
    )
    sources = [Source(path, model, pretrained, average, not raw) for path in checkpoints]
    first = os.environ.get("RANK", "0") == "0"
    with _progress(first) as report:
        outcome = assess(sources, data, settings, report)
    if first:
        _print(outcome)
        _write(outcome, results, append)
        tables = (
            (per_class, outcome.class_rows),
            (confusions, outcome.confusion_rows),
            (predictions, outcome.prediction_rows),
        )
        for path, rows in tables:
            if path is not None:
                write_text(path, _as_csv(rows()))


def _numbers(option: str, text: str | None, kind: type[Any]) -> Iterator[Any]:
    """The values of a comma-separated option."""
    for part in text.split(",") if text else ():
        try:
            yield kind(part)
        except ValueError:
            raise typer.BadParameter(f"{part!r} is no number", param_hint=option) from None


def _print(outcome: Outcome) -> None:
    print(f"{outcome.measurements[0].targets.said}")
    for measured, row in zip(outcome.measurements, outcome.rows, strict=True):
        title = f"{measured.title}: " if len(outcome.rows) > 1 else ""
        low, high = row["top1_interval"]
        skipped = f"  skipped {row['skipped']}" if row["skipped"] else ""
        print(
            f"{title}top-1 {row['top1']:.3f} ({low:.2f} to {high:.2f})  top-5 {row['top5']:.3f}"
            f"  loss {row['loss']:.4f}  calibration error {row['calibration_error']:.4f}"
            f"  images {row['count']}{skipped}  weights {row['weights']}"
        )
    for comparison in outcome.comparisons():
        print(comparison["verdict"])
    for flips in outcome.flips():
        print(
            f"{flips['first']} and {flips['second']} predict otherwise for {flips['flips']} of "
            f"{flips['images']} images"
        )
        for file in flips["files"][:5]:
            print(f"  {file}")


def _write(outcome: Outcome, results: Path | None, append: Path | None) -> None:
    if results is not None:
        write_text(results, json.dumps(outcome.report(), indent=1) + "\n")
    if append is not None:
        old = append.read_text() if append.exists() else ""
        gap = "\n" if old and not old.endswith("\n") else ""
        lines = "".join(json.dumps(row) + "\n" for row in outcome.rows)
        write_text(append, gap + lines, append=True)


def _as_csv(rows: Iterable[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(stream, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return stream.getvalue()


@contextmanager
def _progress(first: bool) -> Iterator[Report | None]:
    """A moving line on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    if not (first and console.is_terminal):
        yield None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("images")
        yield lambda done, total: progress.update(task, completed=done, total=total)
