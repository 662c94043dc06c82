"""`ixt teach`: a teacher's outputs for the images that training will see, written to a cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from ixt.distributed import engine
from ixt.distributed.accelerator import build_accelerator
from ixt.errors import DataError, EngineError, ModelError, RecipeError
from ixt.files import local_path
from ixt.images.classes import output_classes
from ixt.images.data_digest import digest_images
from ixt.images.label_sets import refuse_sets
from ixt.images.progress_lines import Report
from ixt.models.out_of_memory import memory_for
from ixt.pipeline.from_recipe import build_train_loader, usable_index
from ixt.pipeline.loader import TrainLoader
from ixt.recipe import Recipe
from ixt.training.resolve import resolve_for_teaching
from ixt.training.teacher.cache import (
    ALL_UP_TO,
    TOP,
    Cache,
    Contents,
    cache_to_write,
    encode,
    needed_text,
    plan_of,
)
from ixt.training.teacher.network import TeacherNetwork


def teach(
    recipe: Recipe,
    out: Path,
    epochs: slice,
    top: int | None,
    say: Callable[[str], object],
    report: Report,
) -> None:
    """Write what the teacher of a recipe says about every image of some epochs.

    Epochs whose file is there and sound are left as they are, so a call that was stopped is
    continued by the same call.

    Args:
        recipe: as it will be trained; with data.root and teacher.checkpoint set.
        out: folder of the cache.
        epochs: those to write; all of the recipe's without bounds.
        top: the most probable classes to keep; None for all of few, and 10 of many.
        say: takes lines for people.
        report: called with the images done and those in all.

    Raises:
        IxtError: recipe, data, teacher or cache do not fit, or the disk is too small.
    """
    _refuse_incomplete(recipe)
    numbers = range(recipe.schedule.total_epochs)[epochs]
    recipe = resolve_for_teaching(recipe).with_(run={"trackers": ()})
    index = usable_index(recipe, "train")
    refuse_sets(index, "teacher")
    class_names = output_classes(index.classes, recipe.model.num_classes)
    accelerator = build_accelerator(recipe, Path())
    with engine.closing(accelerator), _memory_for(recipe):
        loader = build_train_loader(recipe, index, class_names, accelerator)
        network = TeacherNetwork(recipe, class_names, accelerator)
        contents = Contents(
            teacher=network.facts,
            plan=plan_of(recipe, digest_images(index)),
            num_classes=len(class_names),
            top=_num_kept(top, len(class_names)),
            num_rows=loader.updates_per_epoch * recipe.engine.global_batch_size,
        )
        cache = cache_to_write(local_path(out), contents)
        todo = [epoch for epoch in numbers if not _is_sound(cache, epoch, say)]
        say(needed_text(cache, len(todo)))
        for number, epoch in enumerate(todo):
            rows = _rows(loader, network, contents, epoch)
            total, done = (count * contents.num_rows for count in (len(todo), number))
            cache.write(epoch, _counted(rows, report, done, total))


def _refuse_incomplete(recipe: Recipe) -> None:
    if recipe.teacher.checkpoint is None:
        raise RecipeError("teacher.checkpoint: is null; give the teacher whose outputs to write")
    if recipe.data.root is None:
        raise DataError("data.root: not set; give --data DIR, a folder with train/ and val/")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise EngineError("ixt teach: runs in one process; give each process its own --epochs")


def _memory_for(recipe: Recipe) -> AbstractContextManager[None]:
    what = f"engine.micro_batch_size {recipe.engine.micro_batch_size}"
    return memory_for(what, "lower it; augment.mixing_group must stay the same")


def _num_kept(top: int | None, num_classes: int) -> int:
    usual = num_classes if num_classes <= ALL_UP_TO else TOP
    return min(top or usual, num_classes)


def _is_sound(cache: Cache, epoch: int, say: Callable[[str], object]) -> bool:
    """Whether the file of an epoch is there, as it was written."""
    if cache.missing([epoch]):
        return False
    try:
        cache.epoch(epoch)
    except DataError:
        say(f"{cache.file(epoch)}: is damaged, or of another cache; it is written again")
        return False
    return True


def _rows(
    loader: TrainLoader, network: TeacherNetwork, contents: Contents, epoch: int
) -> Iterator[NDArray[Any]]:
    """The rows of an epoch, a micro-batch at a time."""
    for batch in loader.epoch(epoch):
        outputs = network(batch.images)
        if not bool(torch.isfinite(outputs).all()):
            raise ModelError(
                f"teacher.checkpoint: {contents.teacher['file']}: its outputs are not numbers; its "
                "weights are broken, or need engine.precision fp32"
            )
        yield encode(outputs, contents)


def _counted(
    parts: Iterator[NDArray[Any]], report: Report, done: int, total: int
) -> Iterator[NDArray[Any]]:
    """The parts as they are; the rows that have passed are reported."""
    for part in parts:
        yield part
        done += len(part)
        report(done, total)
