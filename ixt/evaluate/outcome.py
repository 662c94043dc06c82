"""Results of an evaluation as rows: numbers with their protocol, comparisons, tables per class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixt.distributed.machine import describe_machine
from ixt.evaluate.accuracy import (
    calibration_error,
    class_results,
    confusions,
    counted,
    hits,
    mcnemar,
    metrics_row,
    verdict,
    wilson_interval,
)
from ixt.evaluate.candidates import Candidate
from ixt.evaluate.records import Records
from ixt.evaluate.targets import Targets
from ixt.images.classes import class_label
from ixt.images.index import Index
from ixt.pipeline.eval_loader import View

_CONFUSED_SHOWN = 20  # pairs in the results file; --confusions writes all


@dataclass(frozen=True, eq=False)
class Measurement:
    """One model, cut one way, decoded one way, on all images."""

    candidate: Candidate
    view: View
    decoder: str
    """torch, dali or exact."""
    targets: Targets
    records: Records

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class of each output."""
        assert self.candidate.class_names is not None
        return self.candidate.class_names

    @cached_property
    def counts(self) -> NDArray[np.bool_]:
        """(n,) the images that count."""
        return counted(self.records, self.targets.labels)

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """(n,) whether the first output is right."""
        return hits(self.records, self.targets.labels, 1)

    def numbers(self) -> dict[str, Any]:
        """Accuracy, intervals and calibration, and what they are of."""
        recipe = self.candidate.recipe
        labels, counts = self.targets.labels, self.counts
        row = metrics_row(self.records, labels)
        count, skipped = row["count"], row["skipped"]
        top1, top5 = (int((hits(self.records, labels, k) & counts).sum()) for k in (1, 5))
        error = None
        if not self.targets.several:  # else each class has a confidence of its own
            error = calibration_error(self.records.confidence[counts], self.right[counts])
        return {
            **row,
            "unlabelled": len(counts) - count - skipped,
            "top1_interval": wilson_interval(top1, count),
            "top5_interval": wilson_interval(top5, count),
            "calibration_error": error,
            **self.candidate.origin,
            **asdict(self.view),
            "mean": recipe.augment.mean,
            "std": recipe.augment.std,
            "channels_last": recipe.engine.channels_last,
            "decoder": self.decoder,
            "labels": self.targets.said,
        }

    @property
    def title(self) -> str:
        """What tells it from the other measurements."""
        view = self.view
        return f"{self.candidate.name} {view.image_size}px crop {view.crop_pct:g} {self.decoder}"


@dataclass(frozen=True, eq=False)
class Outcome:
    """All measurements of an evaluation."""

    index: Index
    measurements: tuple[Measurement, ...]
    """One per decoder, model, size and crop."""
    protocol: dict[str, Any]
    """What is the same for all of them."""

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The numbers and the protocol of each measurement, ready for JSON."""
        machine = describe_machine()
        shared = {
            **self.protocol,
            "data": str(self.index.folder),
            "devices": machine["devices"] or [machine["cpu"]],
            "versions": {"ixt": machine["ixt"], **machine["packages"]},
            "git_commit": machine["git_commit"],
        }
        return [{**measured.numbers(), **shared} for measured in self.measurements]

    def report(self) -> dict[str, Any]:
        """The content of a results file: the first row, and what there is besides."""
        content = dict(self.rows[0])
        if len(self.rows) > 1:
            content["measurements"] = self.rows
        if comparisons := self.comparisons():
            content["comparisons"] = comparisons
        if flips := self.flips():
            content["decoder_flips"] = flips
        first = self.measurements[0]
        if first.targets.single is not None:
            content["most_confused"] = [
                {"label": row["label"], "prediction": row["prediction"], "images": row["images"]}
                for row in _confusion_rows(first)[:_CONFUSED_SHOWN]
            ]
        return content

    def comparisons(self) -> list[dict[str, Any]]:
        """Every two models that were cut and decoded the same way, by the exact McNemar test.

        Where models take different views of their own, their only measurements are compared.
        """
        found = []
        for a, b in combinations(self.measurements, 2):
            if a.candidate is b.candidate or a.decoder != b.decoder:
                continue
            if a.view != b.view and self._num_views(a) * self._num_views(b) > 1:
                continue
            both = a.counts & b.counts
            test = mcnemar(a.right[both], b.right[both])
            names = (a.title, b.title) if a.view != b.view else (a.candidate.name, b.candidate.name)
            found.append(
                {
                    "first": a.title,
                    "second": b.title,
                    "images": int(both.sum()),
                    **asdict(test),
                    "verdict": verdict(*names, test),
                }
            )
        return found

    def flips(self) -> list[dict[str, Any]]:
        """Images that a model predicts otherwise from another decoder's pixels."""
        found = []
        for a, b in combinations(self.measurements, 2):
            if a.candidate is not b.candidate or a.view != b.view:
                continue
            both = a.records.readable & b.records.readable
            rows = np.flatnonzero(both & (a.records.top[:, 0] != b.records.top[:, 0]))
            found.append(
                {
                    "first": a.title,
                    "second": b.title,
                    "images": int(both.sum()),
                    "flips": len(rows),
                    "files": self.index.paths(rows),
                }
            )
        return found

    def _num_views(self, measured: Measurement) -> int:
        return sum(
            m.candidate is measured.candidate and m.decoder == measured.decoder
            for m in self.measurements
        )

    def class_rows(self) -> Iterator[dict[str, Any]]:
        """A row per measurement and class, for CSV.

        Raises:
            DataError: the labels are not one per image.
        """
        for measured in self.measurements:
            for row in class_results(measured.records, measured.targets.by_class()):
                name, wrong = measured.class_names[row["output"]], row["most_predicted_instead"]
                instead = "" if wrong is None else class_label(measured.class_names[wrong])
                named = {"output": row["output"], "class": name, "words": class_label(name)}
                yield {**_tag(measured), **named, **row, "most_predicted_instead": instead}

    def confusion_rows(self) -> Iterator[dict[str, Any]]:
        """A row per measurement and confused pair, the most frequent first, for CSV.

        Raises:
            DataError: the labels are not one per image.
        """
        for measured in self.measurements:
            for row in _confusion_rows(measured):
                yield {**_tag(measured), **row}

    def prediction_rows(self) -> Iterator[dict[str, Any]]:
        """A row per measurement and readable image, for CSV."""
        paths = self.index.paths(np.arange(len(self.index)))
        for measured in self.measurements:
            records = measured.records
            for row in np.flatnonzero(records.readable).tolist():
                labels = measured.targets.labels[row]
                yield {
                    **_tag(measured),
                    "file": paths[row],
                    "labels": " ".join(map(str, labels[labels >= 0].tolist())),
                    "right": int(measured.right[row]),
                    "top": " ".join(str(n) for n in records.top[row].tolist() if n >= 0),
                    "confidence": float(records.confidence[row]),
                    "loss": float(records.loss[row]),
                }


def _confusion_rows(measured: Measurement) -> list[dict[str, Any]]:
    names = [class_label(name) for name in measured.class_names]
    return [
        {
            "label": names[label],
            "prediction": names[prediction],
            "label_output": label,
            "prediction_output": prediction,
            "images": number,
        }
        for label, prediction, number in confusions(measured.records, measured.targets.by_class())
    ]


def _tag(measured: Measurement) -> dict[str, Any]:
    view = measured.view
    return {
        "model": measured.candidate.name,
        "image_size": view.image_size,
        "crop_pct": view.crop_pct,
        "decoder": measured.decoder,
    }
