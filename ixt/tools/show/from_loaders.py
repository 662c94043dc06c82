"""Take samples out of the loaders that training and evaluation use, with the plan's numbers."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.errors import DataError
from ixt.images.classes import output_classes
from ixt.images.folders import Split
from ixt.images.index import Index
from ixt.images.label_sets import plan_labels, single_classes
from ixt.pipeline.decode.base import Decoder, DecoderKind
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.eval_loader import EvalLoader, recipe_view
from ixt.pipeline.loader import Batch, TrainLoader
from ixt.pipeline.plan.plan import Plan, build_planner
from ixt.pipeline.plan.subset import recipe_index
from ixt.recipe import Recipe
from ixt.tools.show.sample import Sample, Source, denormalise, row_numbers

_TARGETS = 2
_CPU = torch.device("cpu")
# Shown elsewhere: as the position, the file and the class.
_SHOWN_ELSEWHERE = ("epoch", "positions", "samples", "labels")


def take_samples(
    root: str | Path,
    split: Split,
    recipe: Recipe,
    epoch: int,
    position: int,
    count: int,
    decoder: DecoderKind = "auto",
) -> list[Sample]:
    """Samples at consecutive positions of a split: train as training gets it, val as evaluation.

    Args:
        root: folder with train/ and val/ (or validation/).
        split: train or val.
        recipe: decides everything but the data; of its data section, only which images are taken.
        epoch: number of the epoch, from 0; ignored for val.
        position: the first one: a place in the epoch's order, or a row of val's index.
        count: how many.
        decoder: auto, torch or dali, on the CPU.

    Raises:
        DataError: the folder does not fit, or a position lies outside the split, or in a mixing
            group that the epoch's end cuts off.
    """
    index = recipe_index(recipe, split, root)
    if split == "val":
        return _eval_samples(index, recipe, position, count, decoder)
    return _train_samples(index, recipe, epoch, position, count, decoder)


def _train_samples(
    index: Index, recipe: Recipe, epoch: int, position: int, count: int, decoder: DecoderKind
) -> list[Sample]:
    """The samples at consecutive positions of a training epoch, in whole mixing groups."""
    recipe = recipe.in_epoch(epoch)
    group = recipe.mixing_group if recipe.augment.mixes else 1
    _check_range(index, position, count, len(index) // group * group, group)
    names = _class_names(index, recipe)
    labels, sets = plan_labels(index, names)
    planner = build_planner(recipe, labels, index.sizes)
    shown = _TARGETS if sets is None else _TARGETS * int(sets.sum(axis=1).max())
    order = planner.order(epoch)
    first, end = position // group, -(-(position + count) // group)
    samples: list[Sample] = []
    with _decoder(decoder) as opened:
        loader = TrainLoader(
            index,
            planner,
            opened,
            _group_by_group(recipe, group),
            num_classes=len(names),
            device=_CPU,
            rank=0,
            world_size=1,
            sets=sets,
        )
        batches = islice(loader.epoch(epoch, first_update=first), end - first)
        for number, batch in enumerate(batches, first):
            plan = planner.plan(epoch, order, number * group + np.arange(group))
            assert plan.fingerprint == batch.fingerprint
            samples += [
                _train_sample(index, recipe, names, plan, batch, row, shown) for row in range(group)
            ]
    skipped = position - first * group
    return samples[skipped : skipped + count]


def _eval_samples(
    index: Index, recipe: Recipe, position: int, count: int, decoder: DecoderKind
) -> list[Sample]:
    """Consecutive images of a split as an evaluation sees them."""
    _check_range(index, position, count, len(index), 1)
    names = _class_names(index, recipe)
    labels, sets = plan_labels(index, names)
    single = recipe.with_(eval={"batch_size": 1})
    samples = []
    with _decoder(decoder) as opened:
        for row in range(position, position + count):
            # Of as many processes as there are images, each takes one.
            loader = EvalLoader(
                index, labels, opened, single, device=_CPU, rank=row, world_size=len(index)
            )
            (batch,) = loader
            crops = recipe_view(recipe).crops(index.sizes[[row]])
            (source,) = _sources(index, np.array([row]))
            samples.append(
                Sample(
                    epoch=None,
                    position=row,
                    source=source,
                    label=int(labels[row]),
                    image=batch.images[0],
                    pixels=denormalise(batch.images[0], recipe),
                    numbers={"crops": row_numbers(crops, 0, 1, "crops")},
                    partner=None,
                    targets=dict.fromkeys(_right(source, labels[row], names, sets), 1.0),
                    problem=batch.damaged.get(source.path),
                )
            )
    return samples


def _decoder(kind: DecoderKind) -> closing[Decoder]:
    return closing(make_decoder(kind, device=_CPU, num_threads=2, prefetch=1, on_error="skip"))


def _train_sample(
    index: Index,
    recipe: Recipe,
    names: tuple[str, ...],
    plan: Plan,
    batch: Batch,
    row: int,
    num_targets: int,
) -> Sample:
    numbers = row_numbers(plan, row, len(plan.positions))
    # i mixes with n - 1 - i; the batch is one group.
    pair = [row, len(plan.positions) - 1 - row]
    source, partner = _sources(index, plan.samples[pair])
    mixed = plan.mix is not None and float(plan.mix.lam[0]) < 1.0
    return Sample(
        epoch=plan.epoch,
        position=int(plan.positions[row]),
        source=source,
        label=int(plan.labels[row]),
        image=batch.images[row],
        pixels=denormalise(batch.images[row], recipe),
        numbers={name: value for name, value in numbers.items() if name not in _SHOWN_ELSEWHERE},
        partner=(int(plan.positions[pair[1]]), partner) if mixed else None,
        targets=_largest(batch.targets[row], names, num_targets),
        problem=batch.damaged.get(source.path),
    )


def _sources(index: Index, samples: NDArray[np.int64]) -> list[Source]:
    return [
        Source(
            sample=int(sample),
            stored=stored,
            class_name=index.classes[int(index.labels[sample])],
            height=int(index.sizes[sample, 0]),
            width=int(index.sizes[sample, 1]),
        )
        for sample, stored in zip(samples, index.ranges(samples), strict=True)
    ]


def _group_by_group(recipe: Recipe, group: int) -> Recipe:
    """The recipe with an update per mixing group, which changes no sample at any position."""
    return recipe.in_single_batches(group).with_(augment={"mixing_group": group})


def _class_names(index: Index, recipe: Recipe) -> tuple[str, ...]:
    """The model's classes, or the folder's own where the model is for other data."""
    try:
        return output_classes(single_classes(index), recipe.model.num_classes)
    except DataError:
        return output_classes(single_classes(index), None)


def _right(
    source: Source, label: int, names: tuple[str, ...], sets: NDArray[np.bool_] | None
) -> list[str]:
    """The classes that an image shows."""
    if sets is None:
        return [source.class_name]
    return [names[output] for output in np.flatnonzero(sets[label])]


def _largest(targets: Tensor, names: tuple[str, ...], count: int) -> dict[str, float]:
    values, outputs = targets.topk(min(count, len(names)))
    pairs = zip(outputs.tolist(), values.tolist(), strict=True)
    return {names[output]: value for output, value in pairs}


def _check_range(index: Index, position: int, count: int, end: int, group: int) -> None:
    if position + count <= end:
        return
    whole = f", {end} in whole mixing groups of {group}" if end < len(index) else ""
    raise DataError(
        f"{index.folder}: holds {len(index)} images{whole}, so positions end at {end - 1}; "
        f"{position} to {position + count - 1} were asked for"
    )
