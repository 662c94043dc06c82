"""What the newest evaluation found, summed up for the report and kept in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ixt.errors import DataError
from ixt.evaluate.accuracy import (
    Bin,
    accuracy,
    average_precisions,
    calibration_bins,
    calibration_error,
    class_results,
    confusions,
    counted,
    hits,
)
from ixt.images.byte_ranges import ByteRange
from ixt.images.image import DamagedImage, load_image
from ixt.runs.report.pictures import data_uri, shrunk

if TYPE_CHECKING:
    from ixt.evaluate.records import Records
    from ixt.pipeline.eval_loader import EvalLoader

EVALUATION = "report/evaluation.json"
"""Where it lies in a run's folder."""
MATRIX_CLASSES = 20
"""Up to this number of classes, the confusion matrix is shown."""
_PAIRS = 30
_NO_CLASSES: dict[str, Any] = {
    **dict.fromkeys(("classes", "confusions", "bins"), ()),
    **dict.fromkeys(("num_confusions", "calibration_error"), 0),
}
_MISTAKES = 12


class _Stored(BaseModel):
    """Numbers that are none stay so in the file."""

    model_config = ConfigDict(ser_json_inf_nan="constants")


class ClassResult(_Stored):
    """One class that has images."""

    output: int
    count: int
    top1: float
    """Percent of its images whose first output is right."""
    top5: float
    """Percent of its images with the right output among the first five."""
    most_predicted_instead: int | None


class ClassPrecision(_Stored):
    """One class that has images, where images have several labels."""

    output: int
    count: int
    precision: float
    """Average precision, in [0, 1]."""


class Mistake(_Stored):
    """An image whose first output is wrong."""

    file: str
    label: int | list[int]
    """All of its labels, where images have several."""
    prediction: int
    confidence: float
    picture: str | None
    """Data URI; None where the image cannot be read any more."""


class Evaluation(_Stored):
    """An evaluation as the report shows it."""

    format: Literal[1] = 1
    step: int
    weights: Literal["raw", "ema"]
    class_names: list[str]
    top1: float
    """This and the next four are those of `ixt.evaluate.Accuracy`."""
    top5: float
    loss: float
    count: int
    skipped: int
    classes: list[ClassResult]
    confusions: list[tuple[int, int, int]]
    """Label, prediction and images of wrong predictions, the most frequent first: all of them with
    up to `MATRIX_CLASSES` classes."""
    num_confusions: int
    """Pairs of classes that are confused, those left out included."""
    bins: list[Bin]
    calibration_error: float
    """Expected calibration error, in [0, 1]."""
    precisions: list[ClassPrecision] | None = None
    """Only where images have several labels; there are no classes, confusions and bins then."""
    mistakes: list[Mistake]
    """The most confident ones, the most confident first."""


def summarise(
    records: Records,
    loader: EvalLoader,
    class_names: Sequence[str],
    step: int,
    averaged: bool,
) -> Evaluation:
    """Sum up what an evaluation found of each image.

    `records` hold a row per image of the loader's split, from all processes; `step` updates are
    done.
    """
    labels = loader.labels
    counts, right = counted(records, labels), hits(records, labels, 1)
    terms: dict[str, Any] = {
        "step": step,
        "weights": "ema" if averaged else "raw",
        "class_names": [plain_text(name) for name in class_names],
        **accuracy(records, labels).row(),
        "mistakes": _mistakes(records, loader, counts & ~right),
    }
    if records.scores is not None:
        found = average_precisions(records, labels)
        precisions = [
            ClassPrecision(output=output, count=count, precision=precision)
            for output, count, precision in found
        ]
        return Evaluation(**terms, **_NO_CLASSES, precisions=precisions)
    finite = counts & np.isfinite(records.confidence)  # weights may be finite and logits not
    known, pairs = (records.confidence[finite], right[finite]), confusions(records, labels)
    return Evaluation(
        **terms,
        classes=[ClassResult.model_validate(row) for row in class_results(records, labels)],
        confusions=pairs if len(class_names) <= MATRIX_CLASSES else pairs[:_PAIRS],
        num_confusions=len(pairs),
        bins=calibration_bins(*known),
        calibration_error=calibration_error(*known),
    )


def plain_text(name: str) -> str:
    """A name for JSON and for pages, which have no place for bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()


def _mistakes(records: Records, loader: EvalLoader, wrong: NDArray[np.bool_]) -> list[Mistake]:
    rows = np.flatnonzero(wrong)
    rows = rows[np.argsort(-records.confidence[rows], kind="stable")][:_MISTAKES]
    return [
        Mistake(
            file=plain_text(source.name),
            label=_label(loader.labels[row]),
            prediction=int(records.top[row, 0]),
            confidence=float(records.confidence[row]),
            picture=_picture(source),
        )
        for row, source in zip(rows.tolist(), loader.sources(rows), strict=True)
    ]


def _label(labels: NDArray[np.int64]) -> int | list[int]:
    """The label of an image, or its several ones, of which -1 is none."""
    return [int(each) for each in labels if each >= 0] if labels.ndim else int(labels)


def _picture(source: ByteRange) -> str | None:
    try:
        return data_uri(shrunk(load_image(source)))
    except (DamagedImage, DataError):
        return None
