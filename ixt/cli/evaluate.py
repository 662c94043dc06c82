"""`ixt eval`."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ixt.cli.app import app, say
from ixt.cli.imports import uncollected
from ixt.cli.options import ProcessesOption, grouped
from ixt.cli.progress import progress
from ixt.errors import IxtError
from ixt.files import append_line, check_outputs, write_json, write_text

if TYPE_CHECKING:
    from ixt.evaluate.outcome import Outcome

_weights = partial(typer.Option, rich_help_panel="Weights")
_test_set = partial(typer.Option, rich_help_panel="Test set")
_how = partial(typer.Option, rich_help_panel="How")
_results = partial(typer.Option, rich_help_panel="Results")


@dataclass(frozen=True)
class Weights:
    """Which weights of a checkpoint are evaluated."""

    model: Annotated[str | None, _weights(help="Model name, where a file does not name it.")] = None
    pretrained: Annotated[
        bool, _weights("--pretrained", help="Published weights of timm's hub.")
    ] = False
    raw: Annotated[bool, _weights("--raw", help="Take raw weights, not averaged ones.")] = False
    average: Annotated[
        str | None,
        _weights(metavar="best:N|last:N", help="Average the weights of a run's checkpoints."),
    ] = None
    bn_stats: Annotated[
        Literal["average", "recompute"],
        _weights(
            help="Batch-norm statistics: as they are (of --average: averaged), or recomputed "
            "from images of train/."
        ),
    ] = "average"


@dataclass(frozen=True)
class TestSet:
    """What is predicted, and what is right."""

    labels: Annotated[
        str,
        _test_set(
            metavar="auto|folders|ilsvrc|real|FILE",
            help="What is right: class folders, the challenge's labels by file number, ImageNet "
            "ReaL, a JSON list of lists like ReaL's, or a table `file,class`.",
        ),
    ] = "auto"
    class_map: Annotated[
        Path | None,
        _test_set(help="Class folder of each output: a line each, or JSON {folder: output}."),
    ] = None
    compete: Annotated[
        Literal["auto", "all", "present"],
        _test_set(
            help="Which outputs may be predicted: all, or those of the classes present; "
            "auto: present for ImageNet-A and -R."
        ),
    ] = "auto"
    skip_damaged: Annotated[
        bool, _test_set("--skip-damaged", help="Leave unreadable images out.")
    ] = False


@dataclass(frozen=True)
class How:
    """How images are prepared and go through the model."""

    batch_size: Annotated[int | None, _how(min=1, help="Images per forward pass.")] = None
    decoder: Annotated[
        Literal["auto", "torch", "dali", "both", "exact"],
        _how(help="exact: timm's pixels, by Pillow; both: torch and DALI, compared."),
    ] = "auto"
    image_size: Annotated[
        str | None, _how(metavar="N[,N...]", help="Side of the test image; tries each.")
    ] = None
    crop_pct: Annotated[
        str | None, _how(metavar="X[,X...]", help="Share that is kept; tries each.")
    ] = None
    tta: Annotated[
        Literal["flip"] | None, _how(help="flip: mean logits of image and mirror image.")
    ] = None
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, _how(help="The recipe's, or fp32.")
    ] = None


@dataclass(frozen=True)
class Results:
    """Files to write."""

    results: Annotated[Path | None, _results(help="Write numbers and protocol as JSON.")] = None
    append: Annotated[Path | None, _results(help="Add a line per measurement to a JSONL file.")] = (
        None
    )
    per_class: Annotated[Path | None, _results(help="Write a CSV row per class.")] = None
    confusions: Annotated[
        Path | None, _results(help="Write confused pairs as CSV, most first.")
    ] = None
    predictions: Annotated[Path | None, _results(help="Write a CSV row per image.")] = None


@app.command("eval", rich_help_panel="Use")
@grouped
def evaluate(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            metavar="CHECKPOINT...",
            help="Runs (their newest checkpoints; RUN@best, RUN@step-120 for others), checkpoints "
            "or weights files; several are compared. Model names with --pretrained.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Folder with val/, class folders, or numbered validation images; or s3://...",
        ),
    ],
    weights: Weights,
    test_set: TestSet,
    how: How,
    files: Results,
    num_processes: ProcessesOption = None,
) -> None:
    """Measure top-1 and top-5 of checkpoints, every image counted once.

    Example: `ixt eval runs/inceptionnext_tiny --data /data/imagenet`
    """
    from ixt.distributed.launch.agent import in_processes

    first = os.environ.get("RANK", "0") == "0"
    if first:
        check_outputs(*vars(files).values())
    status = in_processes(num_processes)
    if status is not None:
        sys.exit(status)
    with uncollected():
        from ixt.evaluate.candidates import Source
        from ixt.evaluate.evaluation import Settings, run_evaluation

    settings = Settings(
        batch_size=how.batch_size,
        decoders=("torch", "dali") if how.decoder == "both" else (how.decoder,),
        image_sizes=tuple(_numbers("--image-size", how.image_size, int)),
        crop_pcts=tuple(_numbers("--crop-pct", how.crop_pct, float)),
        precision=how.precision,
        flip=how.tta == "flip",
        bn_stats=weights.bn_stats,
        by_class=files.per_class is not None or files.confusions is not None,
        **vars(test_set),
    )
    kind = (weights.model, weights.pretrained, weights.average, not weights.raw)
    sources = [Source(path, *kind) for path in checkpoints]
    with progress("evaluating", "images", shown=first) as report:
        outcome = run_evaluation(sources, data, settings, report)
    if first:
        _print_outcome(outcome)
        _write_files(outcome, files)


def _numbers(option: str, text: str | None, kind: type[Any]) -> Iterator[Any]:
    """The values of a comma-separated option."""
    for part in text.split(",") if text else ():
        try:
            yield kind(part)
        except ValueError:
            raise IxtError(f"{option}: is {text!r}; give numbers with commas between") from None


def _print_outcome(outcome: Outcome) -> None:
    """Print a line per measurement, then how they compare."""
    say(outcome.measurements[0].targets.said)
    for measured, row in zip(outcome.measurements, outcome.rows, strict=True):
        title = f"{measured.title}: " if len(outcome.rows) > 1 else ""
        low, high = row["top1_interval"]
        skipped = f"  skipped {row['skipped']}" if row["skipped"] else ""
        say(
            f"{title}top-1 {row['top1']:.3f} ({low:.2f} to {high:.2f})  top-5 {row['top5']:.3f}"
            f"  loss {row['loss']:.4f}  calibration error {row['calibration_error']:.4f}"
            f"  images {row['count']}{skipped}  weights {row['weights']}"
        )
    for comparison in outcome.comparisons():
        say(comparison["verdict"])
    for flips in outcome.flips():
        say(
            f"{flips['first']} and {flips['second']} predict otherwise for {flips['flips']} of "
            f"{flips['images']} images"
        )
        for file in flips["files"][:5]:
            say(f"  {file}")


def _write_files(outcome: Outcome, files: Results) -> None:
    if files.results is not None:
        write_json(files.results, outcome.report())
    if files.append is not None:
        append_line(files.append, "\n".join(map(json.dumps, outcome.rows)))
    tables = (
        (files.per_class, outcome.class_rows),
        (files.confusions, outcome.confusion_rows),
        (files.predictions, outcome.prediction_rows),
    )
    for path, rows in tables:
        if path is not None:
            write_text(path, _as_csv(rows()))


def _as_csv(rows: Iterable[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(stream, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return stream.getvalue()
