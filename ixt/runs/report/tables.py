"""The tables of the report: recipes, epochs, classes, confusions, commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

from ixt.errors import printable
from ixt.images.classes import class_label
from ixt.runs.report.evaluation import (
    MATRIX_CLASSES,
    ClassPrecision,
    ClassResult,
    Evaluation,
)
from ixt.runs.report.folder import Row, RunFolder, number
from ixt.runs.settings import defaults

_ALL_CLASSES = 40
"""Up to this number, every class is shown."""
_EACH_END = 15
_MISSING = "\u2013"


class Setting(NamedTuple):
    """A key of a recipe."""

    key: str
    values: list[str]
    """In each run; of one run, its value and the default."""


class Cell(NamedTuple):
    """An entry of the confusion matrix."""

    images: int
    share: float
    """Share of the images of its class, in [0, 1]."""
    right: bool


def label(name: str) -> str:
    """A class for people."""
    return printable(class_label(name)) or "(no name)"


def value_text(value: Any) -> str:
    """A value of a recipe as YAML would have it on one line."""
    if isinstance(value, str):
        return printable(value)
    return printable(json.dumps(value, ensure_ascii=False, default=str))


def changed_settings(run: RunFolder) -> list[Setting]:
    """The keys whose value is not the default, with both; also those without one."""
    known = defaults()
    return [
        Setting(key, [value_text(value), value_text(known[key]) if key in known else _MISSING])
        for key, value in run.recipe.items()
        if key not in known or value != known[key]
    ]


def differing_settings(runs: Sequence[RunFolder]) -> list[Setting]:
    """The keys in which the recipes of several runs differ.

    A run whose recipe could not be read is left out of the comparison.
    """
    full = [run.recipe for run in runs]
    keys = dict.fromkeys(key for recipe in full for key in recipe)
    found = []
    for key in keys:
        texts = [value_text(recipe[key]) if key in recipe else _MISSING for recipe in full]
        given = [text for text, recipe in zip(texts, full, strict=True) if recipe]
        if len(set(given)) > 1:
            found.append(Setting(key, texts))
    return found


class EpochRow(NamedTuple):
    """An evaluation in words."""

    name: str
    cells: list[str]
    """Epoch, step, then a number for each of `EPOCH_COLUMNS`."""


EPOCH_COLUMNS = (
    ("mAP", "map", "{:.2f} %"),
    ("top-1", "top1", "{:.2f} %"),
    ("top-5", "top5", "{:.2f} %"),
    ("loss", "loss", "{:.4f}"),
    ("EMA mAP", "ema_map", "{:.2f} %"),
    ("EMA top-1", "ema_top1", "{:.2f} %"),
    ("EMA top-5", "ema_top5", "{:.2f} %"),
    ("EMA loss", "ema_loss", "{:.4f}"),
)
_BEFORE = 2  # epoch and step
_ALL = _BEFORE + len(EPOCH_COLUMNS)


def epoch_row(name: str, row: Row) -> EpochRow:
    """The numbers of an evaluation."""
    cells = [f"{row['epoch']:,}", f"{row['step']:,}"]
    for _, key, how in EPOCH_COLUMNS:
        value = number(row, key)
        cells.append(_MISSING if value is None else how.format(value))
    return EpochRow(name, cells)


def filled_columns(rows: Sequence[EpochRow]) -> tuple[list[str], list[EpochRow]]:
    """The names of the columns in which an evaluation has a number, and the rows with only those.

    Few have mAP, and not all an average of the weights.
    """
    filled = [any(row.cells[place] != _MISSING for row in rows) for place in range(_BEFORE, _ALL)]
    names = [name for (name, *_), keep in zip(EPOCH_COLUMNS, filled, strict=True) if keep]
    kept = [True] * _BEFORE + filled
    return names, [row._replace(cells=list(compress(row.cells, kept))) for row in rows]


def matrix(evaluation: Evaluation) -> list[tuple[str, list[Cell]]]:
    """Each class and how often each output was predicted of it; empty for many classes."""
    size = len(evaluation.class_names)
    if size > MATRIX_CLASSES:
        return []
    images = [[0] * size for _ in range(size)]
    for actual, prediction, count in evaluation.confusions:
        images[actual][prediction] = count
    for found in evaluation.classes:
        images[found.output][found.output] = found.count - sum(images[found.output])
    return [
        (
            label(name),
            [
                Cell(count, count / max(1, sum(images[row])), row == column)
                for column, count in enumerate(images[row])
            ],
        )
        for row, name in enumerate(evaluation.class_names)
    ]


class ClassTable(NamedTuple):
    """Classes by accuracy, or by average precision where images have several labels."""

    title: str
    rows: Sequence[ClassResult | ClassPrecision]


def class_tables(evaluation: Evaluation) -> list[ClassTable]:
    """All classes, the worst first; of many the worst and the best."""
    ranked: list[ClassResult | ClassPrecision]
    if evaluation.precisions is None:
        ranked = [*sorted(evaluation.classes, key=lambda found: (found.top1, found.output))]
    else:
        ranked = [*sorted(evaluation.precisions, key=lambda found: (found.precision, found.output))]
    if len(ranked) <= _ALL_CLASSES:
        return [ClassTable("All classes, the worst first", ranked)] if ranked else []
    return [
        ClassTable(f"The worst {_EACH_END} of {len(ranked):,} classes", ranked[:_EACH_END]),
        ClassTable(f"The best {_EACH_END}", ranked[: -_EACH_END - 1 : -1]),
    ]


def commands(run: RunFolder) -> list[tuple[str, str]]:
    """What for, and the command line."""
    folder = shlex.quote(printable(str(run.path)))
    root = run.recipe.get("data.root")
    data = shlex.quote(printable(str(root))) if root else "DIR"
    model = shlex.quote(f"{printable(run.path.name)}.onnx")
    return [
        ("Evaluate it", f"ixt eval {folder} --data {data}"),
        ("Resume it", f"ixt resume {folder}"),
        ("Export it", f"ixt export {folder} {model} --format onnx"),
        ("Check its files", f"ixt verify {folder} --data {data}"),
        ("Write this page again", f"ixt report {folder}"),
    ]
