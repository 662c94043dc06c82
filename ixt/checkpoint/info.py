"""What weights say about themselves: state.json, an export's JSON, or a stored command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ixt.checkpoint.state_json import STATE, read_state
from ixt.errors import CheckpointError
from ixt.files import read_json, reason

# Arguments that timm writes for every model; the head's size follows from the class names.
_OF_EVERY_MODEL = ("num_classes", "in_chans", "global_pool")

TRAINED_AS = "ixt"
"""Key in the `config.json` of an export: `model` and `model_kwargs` as the recipe has them."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says about itself; None where it does not."""

    model_name: str | None
    """The model's name in the recipe or the command that trained it."""
    num_classes: int | None
    """Outputs of its head."""
    recipe: Mapping[str, Any] | None = None
    """The resolved recipe, of ixt's own checkpoints; what evaluation needs of it, of exports."""
    class_names: tuple[str, ...] | None = None
    """Names of the outputs, of ixt's own checkpoints and exports."""


def folder_info(folder: Path) -> CheckpointInfo | None:
    """What state.json of a checkpoint folder says; None where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    file = folder / STATE
    if not file.is_file():
        return None
    try:
        state = read_state(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file}: damaged: {reason(error)}; take another checkpoint"
        ) from error
    recipe, names = state.get("recipe"), state.get("class_names")
    model = recipe.get("model", {}) if recipe else {}
    return CheckpointInfo(
        model_name=model.get("name"),
        num_classes=len(names) if names else model.get("num_classes"),
        recipe=recipe,
        class_names=tuple(names) if names else None,
    )


def arguments_info(content: Any) -> CheckpointInfo | None:
    """What the stored command line of timm's or Facebook's training script says."""
    args = content.get("args") if isinstance(content, Mapping) else None
    if not isinstance(args, argparse.Namespace):
        return None
    num_classes = getattr(args, "num_classes", None) or getattr(args, "nb_classes", None)
    return CheckpointInfo(getattr(args, "model", None), num_classes)


def export_info(file: Path) -> CheckpointInfo | None:
    """What `ixt export` wrote beside bare weights; None where nothing of ixt's is there.

    `x.pth` has `x.pth.json` beside it, `model.safetensors` has `config.json`.

    Raises:
        CheckpointError: what is there is damaged.
    """
    try:
        return _exported(file)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{file}: what ixt export wrote beside it is damaged ({error!r}); export it again"
        ) from error


def described_info(facts: Mapping[str, Any]) -> CheckpointInfo:
    """The model, how its images are prepared, and its classes, as `ixt export` wrote them.

    `facts` are the content of `x.pth.json`, or the metadata of `x.onnx`.
    """
    name, size, names = facts["model"], facts["image_size"], facts["class_names"]
    num_classes, kwargs = facts["num_classes"], dict(facts["model_kwargs"])
    cut = {key: facts[key] for key in ("crop_pct", "crop_mode", "interpolation")}
    sections = {
        "model": {"name": name, "num_classes": num_classes, "kwargs": kwargs},
        "augment": {"image_size": size, "mean": facts["mean"], "std": facts["std"]},
        "eval": {"image_size": size, **cut},
        # So that an evaluation on the same folder takes none of the images trained on.
        "data": {"val_fraction": facts.get("val_fraction")},
        # So that predictions are probabilities of the same kind; earlier exports do not say.
        "optim": {"loss": facts.get("loss", "cross_entropy")},
    }
    return CheckpointInfo(name, num_classes, sections, tuple(names) if names else None)


def _exported(file: Path) -> CheckpointInfo | None:
    if written := _read(facts_beside(file), "ixt"):
        return described_info(written)
    config = _read(file.with_name("config.json"), "pretrained_cfg")
    if config is None or config["pretrained_cfg"].get("tag") != "ixt":
        return None
    kwargs = {k: v for k, v in config.get("model_args", {}).items() if k not in _OF_EVERY_MODEL}
    settings = config["pretrained_cfg"]
    facts = {
        **settings,
        "num_classes": config["num_classes"],
        "image_size": settings["input_size"][-1],
        "class_names": config.get("label_names"),
    }
    trained = config.get(TRAINED_AS) or {"model": config["architecture"], "model_kwargs": kwargs}
    return described_info({**facts, **trained})


def facts_beside(file: Path) -> Path:
    """The JSON file with what a file of bare weights cannot say."""
    return file.with_name(f"{file.name}.json")


def _read(file: Path, mark: str) -> Mapping[str, Any] | None:
    """A JSON object that has a key; None for anything else, which is no file of ixt's."""
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and mark in content else None
