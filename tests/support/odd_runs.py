"""Folders of runs that nobody trained: rows, a recipe, and an evaluation with chosen outcomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixt.evaluate.records import Records
from ixt.images.byte_ranges import ByteRange
from ixt.recipe import dump_recipe, parse_recipe
from ixt.runs.report.evaluation import EVALUATION, Evaluation, summarise

STEPS_PER_EPOCH = 4


def outcomes(predictions: Sequence[int], confidence: Sequence[float] | None = None) -> Records:
    """What a model made of images, by its first outputs."""
    count = len(predictions)
    top = np.full((count, 5), -1, np.int64)
    top[:, 0] = predictions
    sure = np.full(count, 0.5) if confidence is None else np.array(confidence)
    return Records(top, np.ones(count), sure, np.ones(count, bool))


def found(
    names: Sequence[str],
    labels: Sequence[int] | NDArray[np.int64],
    records: Records,
    files: Sequence[str] | None = None,
    step: int = 2 * STEPS_PER_EPOCH,
) -> Evaluation:
    """The evaluation of images with these labels; without files, none of them is readable."""
    paths = files or [f"/no/{number}.jpeg" for number in range(len(labels))]
    loader: Any = SimpleNamespace(
        labels=np.asarray(labels, np.int64),
        sources=lambda rows: [ByteRange(paths[row]) for row in rows],
    )
    return summarise(records, loader, names, step, averaged=False)


def rows_text(epochs: int = 2, top1: float = 50.0) -> str:
    """The rows of a run."""
    rows: list[dict[str, Any]] = []
    for step in range(1, epochs * STEPS_PER_EPOCH + 1):
        epoch = (step - 1) // STEPS_PER_EPOCH
        numbers = {"loss": 2 / step, "lr": 1e-3, "images_per_s": 300.0, "data_wait": 0.25}
        rows.append({"kind": "steps", "step": step, "epoch": epoch, **numbers})
        if step % STEPS_PER_EPOCH == 0:
            score = {"top1": top1 + epoch, "top5": 90.0, "loss": 1 / step}
            rows.append({"kind": "epoch", "step": step, "epoch": epoch, **score})
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_run(
    folder: Path, evaluation: Evaluation | None = None, **sections: dict[str, Any]
) -> Path:
    """A run's folder.

    Args:
        folder: to make.
        evaluation: kept in it.
        sections: of the recipe, beside its model.
    """
    folder.mkdir(parents=True)
    recipe = parse_recipe({"model": {"name": "resnet18"}, **sections})
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    (folder / "metrics.jsonl").write_text(rows_text())
    if evaluation is not None:
        (folder / EVALUATION).parent.mkdir()
        (folder / EVALUATION).write_text(evaluation.model_dump_json())
    return folder
