"""The data of a run, from its recipe: tables of images, decoders and loaders."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator

from ixt.errors import DataError
from ixt.images.folders import Split
from ixt.images.image import image_problem
from ixt.images.index import Index, target_labels
from ixt.images.label_sets import (
    has_sets,
    label_columns,
    label_sets,
    plan_labels,
    refuse_sets,
    require_map_library,
)
from ixt.pipeline.decode.base import Decoder, DecoderKind, GpuDecoding
from ixt.pipeline.decode.factory import make_decoder, resolve_decoder
from ixt.pipeline.decode.thread_pool import cores_per_process
from ixt.pipeline.eval_loader import EvalLoader
from ixt.pipeline.loader import TrainLoader
from ixt.pipeline.plan.plan import build_planner
from ixt.pipeline.plan.subset import recipe_index
from ixt.recipe import Recipe


def usable_index(recipe: Recipe, split: Split) -> Index:
    """The images of a split that the recipe trains or evaluates on.

    Raises:
        DataError: there are none, or some cannot be read and the recipe does not leave them out.
    """
    index = recipe_index(recipe, split)
    if recipe.data.on_error == "stop":
        refuse_unreadable(index)
    return index


def refuse_unreadable(index: Index, leave_out: str = "set data.on_error: skip") -> None:
    """Refuse a split with files that are no images, before the work begins.

    `leave_out` says in words how to leave such files out.

    Raises:
        DataError: there is such a file; the message names the first one and says what is wrong.
    """
    bad = index.unreadable
    if len(bad):
        (first,) = index.ranges(bad[:1])
        more = f" ({len(bad)} such files)" if len(bad) > 1 else ""
        raise DataError(
            f"{image_problem(first) or first.name}{more}; remove it, "
            f"or {leave_out} to leave such images out"
        )


def build_train_loader(
    recipe: Recipe, index: Index, class_names: tuple[str, ...], accelerator: Accelerator
) -> TrainLoader:
    """This process's share of every training epoch.

    Raises:
        DataError: the split has classes that the model does not know.
    """
    labels, sets = plan_labels(index, class_names)
    planner = build_planner(recipe, labels, index.sizes)
    return TrainLoader(
        index,
        planner,
        build_decoder(recipe, index, accelerator.device),
        recipe,
        num_classes=len(class_names),
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        sets=sets,
    )


def refuse_unfit_sets(recipe: Recipe, index: Index) -> None:
    """Refuse to train on images with several labels what takes one for each.

    Raises:
        DataError: images have several, and a setting means nothing then, or a library is missing.
    """
    if not has_sets(index):
        return
    loss, data = recipe.optim.loss, recipe.data
    unfit = {
        f"optim.loss: {loss}": loss != "bce",
        "optim.class_weights": recipe.optim.class_weights is not None,
        "data.classes": data.classes is not None,
        "data.shots": data.shots is not None,
        "data.sampling": data.sampling_power != 1,
        "teacher": recipe.teacher.is_on,
        "run.log_per_class": recipe.run.log_per_class,
    }
    for name in (name for name, given in unfit.items() if given):
        refuse_sets(index, name)
    require_map_library(index)


def build_eval_loader(
    recipe: Recipe,
    index: Index,
    class_names: tuple[str, ...],
    accelerator: Accelerator,
    several_labels: bool = False,
) -> EvalLoader:
    """This process's share of an evaluation.

    Args:
        recipe: of the run.
        index: the images.
        class_names: class of each output.
        accelerator: of the run.
        several_labels: whether images may have several labels, as those trained on have.

    Raises:
        DataError: the split has classes that the model does not know.
    """
    device = accelerator.device
    if several_labels:
        labels = label_columns(label_sets(index, class_names), index.labels)
    else:
        refuse_sets(index, "a run whose training images have one")
        labels = target_labels(index, class_names)
    return EvalLoader(
        index,
        labels,
        build_decoder(recipe, index, device),
        recipe,
        device=device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        num_scores=len(class_names) if several_labels else 0,
    )


def build_decoder(recipe: Recipe, index: Index, device: torch.device) -> Decoder:
    """The decoder of a split's images, by the recipe's data section.

    Raises:
        DataError: it is not installed, or a setting of the section has no effect on this device.
    """
    data = recipe.data
    return make_decoder(
        data.decoder,
        device=device,
        num_threads=data.num_threads or cores_per_process(),
        prefetch=data.prefetch_batches,
        on_error=data.on_error,
        gpu=GpuDecoding(data.decode_device, data.hw_decoder_load, _large_size(index)),
    )


def build_chosen_decoder(
    recipe: Recipe, index: Index, device: torch.device, kind: DecoderKind
) -> Decoder:
    """A decoder for a run that is looked at later, maybe on another machine than it was made on.

    How DALI decodes is as the recipe says wherever DALI decodes for a CUDA device.

    `kind` takes the place of data.decoder.

    Raises:
        DataError: it is not installed.
    """
    own: dict[str, object] = {"decoder": resolve_decoder(kind)}
    if own["decoder"] != "dali" or device.type != "cuda":
        own |= {"decode_device": "auto", "hw_decoder_load": 0.0}
    return build_decoder(recipe.with_(data=own), index, device)


def _large_size(index: Index) -> tuple[int, int]:
    """The 99th percentiles of height and width, in pixels."""
    height, width = np.percentile(index.sizes, 99, axis=0).astype(int).tolist()
    return height, width
