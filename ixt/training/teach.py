"""`ixt teach`: a teacher's outputs for the images that training will see, written to a cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from ixt.distributed import engine
from ixt.distributed.accelerator import build_accelerator
from ixt.errors import DataError, EngineError, ModelError, RecipeError
from ixt.files import local_path, size_text
from ixt.images.classes import output_classes
from ixt.images.data_digest import digest_images
from ixt.images.label_sets import refuse_sets
from ixt.images.progress_lines import Report
from ixt.models.out_of_memory import memory_for
from ixt.pipeline.from_recipe import build_train_loader, usable_index
from ixt.pipeline.loader import Batch
from ixt.recipe import Recipe
from ixt.training.resolve import resolve_for_teaching
from ixt.training.teacher.cache import (
    Facts,
    Rows,
    encode,
    epoch_file,
    epoch_files,
    plan_of,
    read_facts,
    write_rows,
)
from ixt.training.teacher.network import TeacherNetwork

ALL_UP_TO = 32
"""Classes of which all are kept, where no number is given."""
TOP = 10
"""Classes kept of more."""


def teach(
    recipe: Recipe,
    out: Path,
    epochs: slice,
    top: int | None,
    say: Callable[[str], object],
    report: Report,
) -> None:
    """Write what the teacher of a recipe says about every image of some epochs.

    Epochs that are there are left as they are, so a call that was stopped is continued by the same
    call.

    `epochs` are those to write; all of the recipe's without bounds. Of the classes the `top` most
    probable ones are kept; None keeps all of few, and 10 of many. `say` takes lines for people,
    `report` the images done and those in all.

    Raises:
        IxtError: recipe, data, teacher or cache do not fit, or the disk is too small.
    """
    _refuse_incomplete(recipe)
    numbers = range(recipe.schedule.total_epochs)[epochs]
    recipe = resolve_for_teaching(recipe).with_(run={"trackers": ()})
    index, folder = usable_index(recipe, "train"), local_path(out)
    refuse_sets(index, "teacher")
    names = output_classes(index.classes, recipe.model.num_classes)
    accelerator = build_accelerator(recipe, Path())
    what = f"engine.micro_batch_size {recipe.engine.micro_batch_size}"
    with (
        engine.closing(accelerator),
        memory_for(what, "lower it; augment.mixing_group must stay the same"),
    ):
        loader = build_train_loader(recipe, index, names, accelerator)
        network = TeacherNetwork(recipe, names, accelerator)
        facts = {
            **{f"teacher.{name}": network.facts[name] for name in ("model", "sha256", "file")},
            "num_classes": len(names),
            "top": min(top or (len(names) if len(names) <= ALL_UP_TO else TOP), len(names)),
            "num_rows": loader.updates_per_epoch * recipe.engine.global_batch_size,
            **plan_of(recipe, digest_images(index)),
        }
        for file in epoch_files(folder):
            read_facts(file, facts)
        todo = [epoch for epoch in numbers if not epoch_file(folder, epoch).exists()]
        say(_needed_text(folder, facts, len(todo)))
        total = len(todo) * facts["num_rows"]
        for number, epoch in enumerate(todo):
            parts, done = [], number * facts["num_rows"]
            for batch in loader.epoch(epoch):
                parts.append(_rows(network, batch, facts))
                done += len(batch.images)
                report(done, total)
            whole = {name: torch.cat([rows[name] for rows in parts]) for name in parts[0]}
            write_rows(epoch_file(folder, epoch), facts, whole)


def _refuse_incomplete(recipe: Recipe) -> None:
    if recipe.teacher.checkpoint is None:
        raise RecipeError("teacher.checkpoint: is null; give the teacher whose outputs to write")
    if recipe.data.root is None:
        raise DataError("data.root: not set; give --data DIR, a folder with train/ and val/")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise EngineError("ixt teach: runs in one process; give each process its own --epochs")


def _rows(network: TeacherNetwork, batch: Batch, facts: Facts) -> Rows:
    outputs = network(batch.images)
    if not bool(torch.isfinite(outputs).all()):
        raise ModelError(
            f"teacher.checkpoint: {facts['teacher.file']}: its outputs are not numbers; its "
            "weights are broken, or need engine.precision fp32"
        )
    return encode(outputs, facts["top"])


def _needed_text(folder: Path, facts: Facts, num_epochs: int) -> str:
    """What some epochs take on the disk, in words.

    Raises:
        DataError: that is more than is free.
    """
    place = next(place for place in (folder, *folder.parents) if place.exists())
    row = encode(torch.zeros(1, facts["num_classes"]), facts["top"])
    row_bytes = sum(column.nbytes for column in row.values())
    needed, free = num_epochs * facts["num_rows"] * row_bytes, shutil.disk_usage(place).free
    epochs = f"{num_epochs} epoch{'s' * (num_epochs != 1)}"
    if needed > free:
        raise DataError(
            f"{folder}: {epochs} take {size_text(needed)}, and {size_text(free)} are free; make "
            f"room, give fewer --epochs, or a smaller --top than {facts['top']}"
        )
    return (
        f"{epochs} x {facts['num_rows']:,} images x {row_bytes} bytes: {size_text(needed)} in "
        f"{folder}; {size_text(free)} are free"
    )
