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

from ixt.cli.app import app, say, uncollected
from ixt.cli.options import ProcessesOption, output
from ixt.cli.progress import progress
from ixt.errors import IxtError
from ixt.files import append_line, check_outputs, write_json, write_text

if TYPE_CHECKING:
    from ixt.checkpoint.weight_files import WeightFile
    from ixt.evaluate.outcome import Outcome

_weights = partial(typer.Option, rich_help_panel="Weights")
_labels = partial(typer.Option, rich_help_panel="Labels and classes")
_images = partial(typer.Option, rich_help_panel="Preparation of images")


@dataclass(frozen=True)
class Weights:
    """Which weights of a checkpoint are evaluated.

    Attributes:
        model: Name of the model, if the file does not contain it.
        pretrained: Evaluate the weights that timm publishes.
        raw: Use the raw weights instead of the averaged ones.
        average: Average the weights of the N best or N last checkpoints of a run.
        bn_stats: Batch-norm statistics. average: those of the checkpoint, or their mean with
            --average. recompute: from images in train/.
    """

    model: Annotated[str | None, _weights(metavar="MODEL")] = None
    pretrained: Annotated[bool, _weights()] = False
    raw: Annotated[bool, _weights()] = False
    average: Annotated[str | None, _weights(metavar="best:N|last:N")] = None
    bn_stats: Annotated[Literal["average", "recompute"], _weights()] = "average"


@dataclass(frozen=True)
class TestSet:
    """What is predicted, and what is right.

    Attributes:
        labels: Correct labels. folders: the class folders. ilsvrc: the labels of the challenge, by
            file number. real: ImageNet ReaL. Or a file: a JSON list of lists like that of ReaL, or
            a table with the columns file,class.
        class_map: File that names the class folder of each output of the model: one line per
            output, or JSON {folder: output}.
        compete: Outputs that can be predicted. all: every output. present: only the classes in the
            test set. auto: present for ImageNet-A and ImageNet-R, else all.
        skip_damaged: Leave unreadable images out.
    """

    labels: Annotated[str, _labels(metavar="LABELS")] = "auto"
    class_map: Annotated[Path | None, _labels()] = None
    compete: Annotated[Literal["auto", "all", "present"], _labels()] = "auto"
    skip_damaged: Annotated[bool, _labels()] = False


@dataclass(frozen=True)
class How:
    """How images are prepared and go through the model.

    Attributes:
        batch_size: Number of images per forward pass.
        precision: Number format of the computation.
        image_size: Side of the test images in pixels. If several are given, each is evaluated.
        crop_pct: Share of each side that the center crop keeps, e.g. 0.875. If several are given,
            each is evaluated.
        tta: Test-time augmentation. flip: mean logits of the image and its mirror image.
        decoder: Library that decodes images. auto: DALI where it is installed, else torch. both:
            evaluate with torch and with DALI. exact: Pillow, with the same pixels as timm.
    """

    batch_size: Annotated[int | None, typer.Option(min=1, show_default="that of the recipe")] = None
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        typer.Option(show_default="that of the recipe, or fp32"),
    ] = None
    image_size: Annotated[str | None, _images(metavar="N,N")] = None
    crop_pct: Annotated[str | None, _images(metavar="X,X")] = None
    tta: Annotated[Literal["flip"] | None, _images()] = None
    decoder: Annotated[Literal["auto", "torch", "dali", "both", "exact"], _images()] = "auto"


@dataclass(frozen=True)
class Results:
    """Files to write.

    Attributes:
        results: Write the results and how they were measured, as JSON.
        append: Append one line per measurement to this JSONL file.
        per_class: Write one row per class, as CSV.
        confusions: Write the confused pairs of classes, most frequent first, as CSV.
        predictions: Write one row per image, as CSV.
    """

    results: Annotated[Path | None, output()] = None
    append: Annotated[Path | None, output()] = None
    per_class: Annotated[Path | None, output()] = None
    confusions: Annotated[Path | None, output()] = None
    predictions: Annotated[Path | None, output()] = None


@app.command("eval", rich_help_panel="Use")
def evaluate(
    checkpoints: Annotated[list[Path], typer.Argument(metavar="CHECKPOINT")],
    weights: Weights,
    files: Results,
    how: How,
    test_set: TestSet,
    data: Annotated[
        str | None, typer.Option(metavar="DIR", show_default="the images of the run")
    ] = None,
    num_processes: ProcessesOption = None,
) -> None:
    """Measure the top-1 and top-5 accuracy of checkpoints.

    Each image is counted exactly once, on any number of processes.

    Example: `ixt eval runs/inceptionnext_tiny`

    Args:
        checkpoints: Runs (their newest checkpoints; RUN@best or RUN@step-120 names another one),
            checkpoints, weights files, or ONNX files of `ixt export`. With --pretrained: names of
            models. Several are compared.
        data: Folder with val/, with class folders, or with the numbered validation images of
            ImageNet; or a URL in a bucket.
    """
    from ixt.distributed.launch.agent import in_processes

    first = os.environ.get("RANK", "0") == "0"
    if first:
        check_outputs(*vars(files).values())
    found = [_checked(path, weights) for path in checkpoints]
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
    sources = [Source(path, *kind, file) for path, file in zip(checkpoints, found, strict=True)]
    with progress("evaluating", "images", shown=first) as report:
        outcome = run_evaluation(sources, data, settings, report)
    if first:
        _print_outcome(outcome)
        _write_files(outcome, files)


def _checked(path: Path, weights: Weights) -> WeightFile | None:
    """What was found at a path, before torch is imported; None where more than a file is needed."""
    from ixt.checkpoint.weight_files import check_weights, may_name_a_model

    is_onnx = path.suffix == ".onnx" and path.is_file()
    if weights.pretrained or weights.average or is_onnx or may_name_a_model(path):
        return None
    return check_weights(path, prefer_ema=not weights.raw)


def _numbers(option: str, text: str | None, kind: type[Any]) -> Iterator[Any]:
    """The values of a comma-separated option."""
    for part in text.split(",") if text else ():
        try:
            yield kind(part)
        except ValueError:
            raise IxtError(f"{option}: is {text!r}; give numbers separated by commas") from None


def _print_outcome(outcome: Outcome) -> None:
    """Print a line per measurement, then how they compare."""
    say(outcome.measurements[0].targets.said)
    for measured, row in zip(outcome.measurements, outcome.rows, strict=True):
        title = f"{measured.title}: " if len(outcome.rows) > 1 else ""
        low, high = row["top1_interval"]
        error = row["calibration_error"]
        calibration = "" if error is None else f"  calibration error {error:.4f}"
        average = f"mAP {row['map']:.3f}  " if "map" in row else ""
        skipped = f"  skipped {row['skipped']}" if row["skipped"] else ""
        say(
            f"{title}{average}top-1 {row['top1']:.3f} ({low:.2f} to {high:.2f})"
            f"  top-5 {row['top5']:.3f}  loss {row['loss']:.4f}{calibration}"
            f"  images {row['count']}{skipped}  weights {row['weights']}"
        )
    for comparison in outcome.comparisons():
        say(comparison["verdict"])
    for flips in outcome.flips():
        say(
            f"{flips['first']} and {flips['second']} differ in the prediction for "
            f"{flips['flips']} of {flips['images']} images"
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
