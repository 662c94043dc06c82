"""One pass over the images for any number of models and views: a file is read once for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ixt.distributed.engine.shards import are_cut
from ixt.evaluate.records import Records, fill, gather, new_table, record_rows
from ixt.monitor import activity
from ixt.pipeline.augment.normalise import normalise
from ixt.pipeline.eval_loader import EvalBatch, EvalLoader
from ixt.recipe import Recipe

Report = Callable[[int, int], None]
"""Called with the images done by this process and in all."""


@dataclass(frozen=True, eq=False)
class Contender:
    """A model and how it sees the images."""

    model: nn.Module
    """The model on its device, in evaluation mode."""
    recipe: Recipe
    """How its images are normalised and laid out."""
    view: int
    """Which of the loader's views it takes."""
    flip: bool
    """Whether to average the logits of the image and of its mirror image."""
    labels: Tensor
    """(n, k) int64 on the device, as `Targets.labels`."""
    competing: Tensor | None
    """(C,) bool on the device, as `Targets.competing`."""
    num_scores: int = 0
    """Outputs of the model where all are to be kept, else 0."""


def take_records(model: nn.Module, loader: EvalLoader, device: torch.device) -> Records:
    """Evaluate a model image by image; every process takes part and gets the same answer.

    `model` is in its engine or a plain one, and its training mode is restored; `loader` has this
    process's share of the batches.
    """
    activity.note("evaluating")
    table = new_table(loader.num_samples, device, loader.num_scores)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in loader:
                activity.note("evaluating")
                logits = model(batch.images)
                rows = record_rows(logits, batch.labels, num_scores=loader.num_scores)
                fill(table, batch.samples, rows)
            if are_cut(model) and (blank := loader.blank()) is not None:
                model(blank)  # every forward pass gathers weights from all processes
    finally:
        model.train(training)
    return gather(table)


@torch.no_grad()
def examine(
    contenders: Sequence[Contender],
    loader: EvalLoader,
    device: torch.device,
    report: Report | None = None,
) -> list[Records]:
    """Evaluate models on all images; every process takes part and gets the same answer.

    At least one contender; `loader` has this process's share of the batches; `report` is
    called after each.

    Returns:
        The records of each contender.
    """
    tables = [new_table(loader.num_samples, device, each.num_scores) for each in contenders]
    done = 0
    for batch in loader:
        images: dict[object, Tensor] = {}
        readable = batch.labels >= 0
        first, last = int(batch.samples[0]), int(batch.samples[-1]) + 1
        for contender, table in zip(contenders, tables, strict=True):
            logits = _logits(contender, _images(contender, batch, images))
            labels, who = contender.labels[first:last], contender.competing
            rows = record_rows(logits, labels, readable, who, contender.num_scores)
            fill(table, batch.samples, rows)
        done += len(batch.samples)
        if report is not None:
            report(done, loader.num_samples)
    return [gather(table) for table in tables]


def _images(contender: Contender, batch: EvalBatch, made: dict[object, Tensor]) -> Tensor:
    """The images of a batch as a model wants them, made once for all that want the same."""
    augment = contender.recipe.augment
    how = (augment.mean, augment.std, contender.recipe.engine.channels_last)
    key = (contender.view, *how)
    if key not in made:
        made[key] = normalise(batch.pixels[contender.view], *how)
    return made[key]


def _logits(contender: Contender, images: Tensor) -> Tensor:
    logits: Tensor = contender.model(images)
    if contender.flip:
        logits = (logits.float() + contender.model(images.flip(3)).float()) / 2
    return logits
