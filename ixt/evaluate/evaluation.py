"""`ixt eval`: models on a test set, with the protocol that the numbers were taken by."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from ixt.distributed import engine
from ixt.distributed.accelerator import build_accelerator
from ixt.errors import DataError, ModelError, first_line
from ixt.evaluate.average import BatchNormStats, has_batch_norm, recompute_batch_norm
from ixt.evaluate.candidates import Candidate, Source, open_candidates
from ixt.evaluate.class_map import read_class_map
from ixt.evaluate.inference import Contender, Report, examine
from ixt.evaluate.outcome import Measurement, Outcome
from ixt.evaluate.targets import Compete, Targets, find_targets, name_outputs
from ixt.evaluate.testset import open_test_set
from ixt.images.folders import holds_images, place_of
from ixt.images.hold_out import load_split, own_val
from ixt.images.index import Index
from ixt.kernels import prepare_model
from ixt.models.out_of_memory import memory_for, ran_out_of_memory
from ixt.pipeline.decode.base import DecoderKind
from ixt.pipeline.decode.factory import resolve_decoder
from ixt.pipeline.eval_loader import EvalLoader, View, recipe_view
from ixt.pipeline.from_recipe import build_chosen_decoder, refuse_unreadable
from ixt.pipeline.plan.subset import recipe_index, take_subset
from ixt.recipe import MAX_SIDE, MIN_CROP_PCT, Engine

_log = logging.getLogger("ixt")


@dataclass(frozen=True)
class Settings:
    """How to evaluate; None leaves a choice to the checkpoint's recipe or the model."""

    batch_size: int | None = None
    decoders: tuple[DecoderKind, ...] = ("auto",)
    """One pass over the images for each."""
    image_sizes: tuple[int, ...] = ()
    """Sides of the test image; each is combined with each of crop_pcts."""
    crop_pcts: tuple[float, ...] = ()
    """Shares of the resized shorter side that are kept."""
    precision: str | None = None
    """fp32, bf16 or fp16."""
    flip: bool = False
    """Average the logits of each image and its mirror image."""
    labels: str = "auto"
    """See `find_targets`."""
    class_map: Path | None = None
    """See `read_class_map`."""
    compete: Compete = "auto"
    """See `find_targets`."""
    bn_stats: BatchNormStats = "average"
    """Batch-norm statistics of averaged checkpoints: averaged too, or of training images."""
    skip_damaged: bool = False
    """Leave damaged images out instead of stopping at them."""
    by_class: bool = False
    """The outcome will be asked for tables by class, so every image must have one label."""


def run_evaluation(
    sources: Sequence[Source], data: str | None, settings: Settings, report: Report | None = None
) -> Outcome:
    """Evaluate models on the images of a folder. Every process of a group must call it.

    On `data` see `open_test_set`; None takes the folder that the checkpoints' recipes name.

    Raises:
        IxtError: a checkpoint, the data or a setting does not fit.
    """
    _check_sizes(settings)
    overrides = {"root": data} if data is not None else {}
    overrides |= {"on_error": "skip"} if settings.skip_damaged else {}
    candidates = open_candidates(sources, overrides, settings.batch_size)
    recipe = candidates[0].recipe
    data = data or _own_images(candidates)
    index = _test_images(data, candidates)
    if recipe.data.on_error == "stop":
        refuse_unreadable(index, leave_out="give --skip-damaged")
    candidates, targets = _name_and_label(candidates, index, settings)
    _refuse_reduced_onnx(candidates, settings)
    accelerator = _accelerator(candidates[0], settings)
    with engine.closing(accelerator):
        if settings.bn_stats == "recompute":
            candidates = [_with_new_statistics(c, data, accelerator.device) for c in candidates]
        models = [_prepare(candidate, accelerator) for candidate in candidates]
        what = (index, candidates, models, targets, settings, accelerator, report)
        measurements = [
            measured
            for kind in dict.fromkeys(map(resolve_decoder, settings.decoders))
            for measured in _measure(kind, *what)
        ]
        protocol = _protocol(candidates[0], accelerator, settings)
        return Outcome(index, tuple(measurements), protocol)


def _own_images(candidates: Sequence[Candidate]) -> str:
    """The data root of the models' recipes.

    Raises:
        DataError: there is none, e.g. in exports and published weights, or they differ.
    """
    roots = {candidate.recipe.data.root for candidate in candidates}
    root = next(iter(roots))
    if root is None or len(roots) > 1:
        names = ", ".join(candidate.origin["checkpoint"] for candidate in candidates)
        cause = "were trained on different images" if len(roots) > 1 else "no images are recorded"
        raise DataError(f"{names}: {cause}; give --data DIR")
    if os.environ.get("RANK", "0") == "0":
        _log.warning("%s: the images of the recipe; --data takes others", root)
    return root


def _test_images(data: str, candidates: Sequence[Candidate]) -> Index:
    """The images of a folder; where training images were held out of it, only those.

    Raises:
        DataError: the folder does not fit, or the models did not hold out the same images.
    """
    recipe = candidates[0].recipe
    fractions = {candidate.recipe.data.val_fraction for candidate in candidates}
    if fractions == {None} or own_val(data) or _is_flat(data):
        index = open_test_set(data)
        known = set(recipe.data.classes or ()) <= set(index.classes)
        return take_subset(index, recipe, "val") if known else index
    if len(fractions) > 1:
        raise DataError(
            f"{data}: the models differ in data.val_fraction, so some were trained on images that "
            "others hold out; evaluate them one by one, or on a folder with val/"
        )
    index = recipe_index(recipe, "val", data)
    if os.environ.get("RANK", "0") == "0":
        _log.warning(
            "%s: evaluated on the %s images that data.val_fraction %g holds out; put images into "
            "val/ of a folder to evaluate on all of them",
            *(data, f"{len(index):,}", recipe.data.val_fraction),
        )
    return index


def _is_flat(data: str) -> bool:
    """Whether image files lie in the folder itself, without classes."""
    folder = place_of(data)
    return folder.is_dir() and holds_images(folder)


def _measure(
    kind: DecoderKind,
    index: Index,
    candidates: Sequence[Candidate],
    models: Sequence[nn.Module],
    targets: Sequence[Targets],
    settings: Settings,
    accelerator: Accelerator,
    report: Report | None,
) -> list[Measurement]:
    """One pass over the images: each model with each of its views."""
    recipe, device = candidates[0].recipe, accelerator.device
    wanted = [(n, view) for n, c in enumerate(candidates) for view in _views(c, settings)]
    views = list(dict.fromkeys(view for _, view in wanted))
    if settings.image_sizes:
        for n, view in wanted:
            _try_size(candidates[n], models[n], view.image_size, device)
    labels = [torch.from_numpy(found.labels).to(device) for found in targets]
    competing = [
        None if found.competing is None else torch.from_numpy(found.competing).to(device)
        for found in targets
    ]
    contenders = [
        Contender(
            models[n], candidates[n].recipe, views.index(view), settings.flip, labels[n],
            competing[n], candidates[n].num_classes if targets[n].several else 0,
        )
        for n, view in wanted
    ]  # fmt: skip
    room = memory_for(f"--batch-size {recipe.eval.batch_size}", "lower it, or --image-size")
    with room, closing(build_chosen_decoder(recipe, index, device, kind)) as decoder:
        loader = EvalLoader(
            index,
            np.zeros(len(index), np.int64),
            decoder,
            recipe,
            device=device,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            views=views,
        )
        all_records = examine(contenders, loader, device, report)
    measurements = []
    for (n, view), records in zip(wanted, all_records, strict=True):
        if not np.isfinite(records.confidence[records.readable]).all():
            raise ModelError(
                f"{candidates[n].origin['checkpoint']}: the model's outputs are not numbers; "
                "its weights are broken, or need --precision fp32"
            )
        measurements.append(Measurement(candidates[n], view, kind, targets[n], records))
    return measurements


def _views(candidate: Candidate, settings: Settings) -> list[View]:
    own = recipe_view(candidate.recipe)
    sizes = settings.image_sizes or (own.image_size,)
    crop_pcts = settings.crop_pcts or (own.crop_pct,)
    return [
        replace(own, image_size=size, crop_pct=crop_pct)
        for size, crop_pct in itertools.product(sizes, crop_pcts)
    ]


def _check_sizes(settings: Settings) -> None:
    bad = [pct for pct in settings.crop_pcts if not MIN_CROP_PCT <= pct <= 1]
    if bad:
        raise DataError(f"--crop-pct {bad[0]:g}: is a share of the image; give {MIN_CROP_PCT} to 1")
    outside = [size for size in settings.image_sizes if not 1 <= size <= MAX_SIDE]
    if outside:
        raise DataError(f"--image-size {outside[0]}: is a side in pixels; give 1 to {MAX_SIDE}")


@torch.no_grad()
def _try_size(
    candidate: Candidate, model: nn.Module, image_size: int, device: torch.device
) -> None:
    """Refuse a size that leaves a model's layers no pixels, or does not fit its embeddings."""
    try:
        model(torch.zeros(1, 3, image_size, image_size, device=device))
    except (RuntimeError, AssertionError, ValueError) as error:
        if ran_out_of_memory(error):
            raise
        raise DataError(
            f"--image-size {image_size}: {candidate.recipe.model.name} does not take such images "
            f"({first_line(error)}); give another size"
        ) from error


def _name_and_label(
    candidates: Sequence[Candidate], index: Index, settings: Settings
) -> tuple[list[Candidate], list[Targets]]:
    """The candidates with all class names, and what is right for each of them."""
    class_map = read_class_map(settings.class_map) if settings.class_map else None
    named, targets = [], []
    for candidate in candidates:
        names = candidate.class_names or name_outputs(index, candidate.num_classes, class_map)
        found = find_targets(
            index, names, source=settings.labels, class_map=class_map, compete=settings.compete
        )
        if settings.by_class:
            found.by_class()
        named.append(replace(candidate, class_names=names))
        targets.append(found)
    return named, targets


def _accelerator(candidate: Candidate, settings: Settings) -> Accelerator:
    """Processes, device and precision: one for all models, the first one's if not given."""
    own = candidate.recipe.engine
    shared = Engine.model_validate(
        {
            "global_batch_size": int(os.environ.get("WORLD_SIZE", "1")),
            "micro_batch_size": 1,
            "precision": settings.precision or own.precision,
            "tf32": own.tf32,
            "deterministic": own.deterministic,
        }
    )
    return build_accelerator(candidate.recipe.model_copy(update={"engine": shared}), Path())


def _refuse_reduced_onnx(candidates: Sequence[Candidate], settings: Settings) -> None:
    """An ONNX file computes in the precision that it was exported in, whatever is asked for."""
    precision = settings.precision or candidates[0].recipe.engine.precision
    files = [c.origin["checkpoint"] for c in candidates if c.origin["format"] == "onnx"]
    if files and precision != "fp32":
        raise ModelError(
            f"{files[0]}: an ONNX file computes in fp32, and {precision} is asked for; "
            "give --precision fp32"
        )


def _prepare(candidate: Candidate, accelerator: Accelerator) -> nn.Module:
    model = candidate.model
    prepare_model(model, candidate.recipe, accelerator.device)
    model = model.to(accelerator.device).eval()
    if candidate.recipe.engine.channels_last:
        model = model.to(memory_format=torch.channels_last)
    prepared: nn.Module = accelerator.prepare_model(model, evaluation_mode=True)
    return prepared


def _with_new_statistics(candidate: Candidate, data: str, device: torch.device) -> Candidate:
    """The candidate with batch-norm statistics of training images."""
    if not has_batch_norm(candidate.model):
        raise ModelError(
            f"{candidate.recipe.model.name}: has no batch-norm statistics; leave out --bn-stats"
        )
    index = load_split(data, "train", candidate.recipe.data.val_fraction)
    model = candidate.model.to(device)
    recipe = candidate.recipe
    with closing(build_chosen_decoder(recipe, index, device, "auto")) as decoder:
        count = recompute_batch_norm(model, index, decoder, recipe, recipe_view(recipe))
    said = f"recomputed from {count} training images"
    return replace(candidate, model=model, origin=candidate.origin | {"batch_norm": said})


def _protocol(candidate: Candidate, accelerator: Accelerator, settings: Settings) -> dict[str, Any]:
    """What is the same for all measurements."""
    return {
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision.replace("no", "fp32"),
        "tf32": candidate.recipe.engine.tf32 and accelerator.device.type == "cuda",
        "batch_size": candidate.recipe.eval.batch_size,
        "tta": "flip, mean of the logits" if settings.flip else None,
    }
