"""Exports that are weights for a model function: timm's folder, timm's .pth, the paper's .pth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.models import load_checkpoint, save_for_hf
from torch import Tensor, nn

from ixt.checkpoint.info import TRAINED_AS, facts_beside
from ixt.errors import ExportError
from ixt.export.source import Source, describe
from ixt.export.verify import Forward
from ixt.images.classes import class_label
from ixt.models import create_model, load_weights, timm_equivalent, with_paper_keys


def write_timm_folder(source: Source, folder: Path) -> None:
    """Write config.json and model.safetensors, as `timm.create_model("local-dir:...")` reads them.

    The configuration holds the architecture with its arguments, the evaluation settings, and class
    names. An architecture that timm builds under another name goes by that one; the name it was
    trained by is kept for ixt.
    """
    recipe, names = source.recipe, source.class_names
    name, arguments = timm_equivalent(source.architecture) or (source.architecture, {})
    config = {
        "architecture": name,
        # The published weights' own notes would be wrong beside these weights.
        "pretrained_cfg": {"tag": "ixt", "license": None, "origin_url": None, "paper_ids": None},
        "model_args": arguments,
        TRAINED_AS: {
            "model": recipe.model.name,
            "model_kwargs": recipe.model.kwargs,
            "val_fraction": recipe.data.val_fraction,
            "loss": recipe.optim.loss,
        },
    }
    if names is not None:
        labels = {label: class_label(label) for label in names}
        config |= {"label_names": list(names), "label_descriptions": labels}
    save_for_hf(
        source.model,
        str(folder),
        model_config=config,
        safe_serialization=True,
        data_config={
            "input_size": (3, recipe.eval_size, recipe.eval_size),
            "crop_pct": recipe.eval.crop_pct,
            "crop_mode": recipe.eval.crop_mode,
            "interpolation": recipe.eval.interpolation,
            "mean": recipe.augment.mean,
            "std": recipe.augment.std,
        },
    )
    # safetensors writes files that only their owner may read.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")


def load_timm_folder(source: Source, folder: Path) -> Forward:
    """The model of such a folder as timm builds it, its tensors checked against the source's."""
    _check_tensors(source.model.state_dict(), load_file(folder / "model.safetensors"), folder)
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()


def write_timm_pth(source: Source, file: Path) -> None:
    """Write a state dict with timm's names, and beside it a JSON file with the rest."""
    _save(source, source.model.state_dict(), file)


def load_timm_pth(source: Source, file: Path) -> Forward:
    """The architecture built anew, with the weights as timm's `load_checkpoint` reads them."""
    model = _bare(source)
    load_checkpoint(model, str(file), weights_only=True)
    _check_tensors(source.model.state_dict(), model.state_dict(), file)
    return model.eval()


def write_paper(source: Source, file: Path) -> None:
    """Write a state dict with the names of the paper's repository, and a JSON file beside it.

    Raises:
        ModelError: the repository has no such architecture.
    """
    _save(source, with_paper_keys(source.model.state_dict(), source.model), file)


def load_paper(source: Source, file: Path) -> Forward:
    """The architecture built anew, with the weights renamed back by timm's own filter."""
    model = _bare(source)
    load_weights(model, file)
    _check_tensors(source.model.state_dict(), model.state_dict(), file)
    return model.eval()


def _save(source: Source, state: dict[str, Tensor], file: Path) -> None:
    torch.save({name: tensor.contiguous() for name, tensor in state.items()}, file)
    facts_beside(file).write_text(json.dumps(describe(source), indent=1) + "\n")


def _bare(source: Source) -> nn.Module:
    model = source.recipe.model
    return create_model(model.name, num_classes=source.num_classes, **model.kwargs)


def _check_tensors(expected: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    """Refuse a tensor that came back changed: logits do not show it in every layer."""
    for name, tensor in expected.items():
        if name not in found or not torch.equal(found[name], tensor):
            raise ExportError(f"{path.name}: {name} does not come back as it was; nothing is left")
