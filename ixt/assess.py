"""`ixt eval`: a checkpoint's accuracy on a validation folder, with the protocol it was taken by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ixt.checkpoint import sha256
from ixt.data.classes import output_classes
from ixt.data.index import load_index
from ixt.errors import ModelError
from ixt.evaluate import evaluate
from ixt.kernels import apply_kernels
from ixt.models import LoadedWeights, create_model, eval_settings, load_weights
from ixt.recipe import Recipe, parse_recipe
from ixt.runtime import build_accelerator
from ixt.session import build_eval_loader
from ixt.weights import CheckpointInfo, read_checkpoint_info, read_weights


def assess(
    checkpoint: Path,
    data: str,
    *,
    model_name: str | None = None,
    batch_size: int | None = None,
    decoder: str = "auto",
    prefer_ema: bool = True,
) -> dict[str, Any]:
    """Evaluate a checkpoint on the val split of a folder.

    Args:
        checkpoint: a run folder, a checkpoint folder, or a weights file.
        data: folder with val/ (or validation/).
        model_name: architecture, where the file does not hold it.
        batch_size: images per forward pass; None takes the recipe's.
        decoder: auto, torch or dali.
        prefer_ema: take averaged weights where there are some.

    Returns:
        top1 and top5 in percent, loss, count, skipped, and the protocol.

    Raises:
        IxtError: the file, the data or the model does not fit.
    """
    info = read_checkpoint_info(checkpoint)
    recipe = recipe_of(checkpoint, info, model_name, {"root": data, "decoder": decoder}, batch_size)
    accelerator = build_accelerator(recipe, Path())
    index = load_index(data, "val")
    model, loaded, class_names = load_model(
        checkpoint, recipe, info, index.classes, prefer_ema=prefer_ema
    )
    apply_kernels(model, recipe, accelerator.device)
    model = accelerator.prepare_model(model, evaluation_mode=True)
    loader = build_eval_loader(recipe, index, class_names, accelerator)
    accuracy = evaluate(model, loader, accelerator.device)
    accelerator.end_training()
    return {
        **accuracy.row(),
        "model": recipe.model.name,
        "checkpoint": str(loaded.file),
        "sha256": sha256(loaded.file),
        "weights": loaded.kind,
        "data": str(index.folder),
        "image_size": recipe.eval_size,
        "crop_pct": recipe.eval.crop_pct,
        "interpolation": recipe.eval.interpolation,
        "decoder": decoder,
        "precision": recipe.engine.precision,
    }


def recipe_of(
    checkpoint: Path,
    info: CheckpointInfo | None,
    model_name: str | None,
    data: dict[str, Any],
    batch_size: int | None = None,
) -> Recipe:
    """The recipe that a checkpoint holds, or one with the model's own evaluation settings.

    Raises:
        ModelError: the file does not hold a model name and none is given.
    """
    held = info.recipe if info is not None else None
    if held is not None:
        sections = {**held, "run": {**held.get("run", {}), "trackers": []}}
    else:
        name = model_name or (info.model_name if info is not None else None)
        if name is None:
            raise ModelError(f"{checkpoint}: does not tell its architecture; add --model NAME")
        settings = eval_settings(name)
        sections = {
            "model": {"name": name},
            "augment": {"mean": settings.mean, "std": settings.std},
            "eval": {
                "image_size": settings.image_size,
                "crop_pct": settings.crop_pct,
                "interpolation": settings.interpolation,
            },
            "run": {"trackers": []},
        }
    sections["data"] = {**sections.get("data", {}), **data}
    if batch_size is not None:
        sections["eval"] = {**sections.get("eval", {}), "batch_size": batch_size}
    return parse_recipe(sections, str(checkpoint))


def load_model(
    checkpoint: Path,
    recipe: Recipe,
    info: CheckpointInfo | None,
    folder_names: tuple[str, ...] | None,
    prefer_ema: bool = True,
) -> tuple[nn.Module, LoadedWeights, tuple[str, ...]]:
    """The model of a checkpoint with its weights, and the class name of each of its outputs.

    Args:
        checkpoint: a run folder, a checkpoint folder, or a weights file.
        recipe: what `recipe_of` gave.
        info: what the checkpoint tells of itself.
        folder_names: class folders of the data; None to take ImageNet's names.
        prefer_ema: take averaged weights where there are some.
    """
    names = tuple(info.class_names) if info is not None and info.class_names else None
    num_classes = len(names) if names else _num_classes(checkpoint, recipe)
    model = create_model(recipe.model.name, num_classes=num_classes, **recipe.model.kwargs)
    loaded = load_weights(model, checkpoint, prefer_ema=prefer_ema)
    if names is None:
        names = output_classes(folder_names or (), num_classes)
    return model, loaded, names


def _num_classes(checkpoint: Path, recipe: Recipe) -> int:
    """Outputs of a foreign file: what its classifier, the last two-dimensional weight, has."""
    if recipe.model.num_classes is not None:
        return recipe.model.num_classes
    matrices = [t for t in read_weights(checkpoint).state.values() if t.ndim == 2]
    return len(matrices[-1]) if matrices else 1000
