"""What `ixt export` writes beside bare weights, read back as a recipe and class names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Arguments that timm writes for every model; the head's size follows from the class names.
_OF_EVERY_MODEL = ("num_classes", "in_chans", "global_pool")


def exported_facts(file: Path) -> tuple[Mapping[str, Any], tuple[str, ...] | None] | None:
    """What an export of ixt says about its weights.

    Args:
        file: `x.pth`, which has its facts in `x.pth.json`; or `model.safetensors`, which has them
            in `config.json`.

    Returns:
        The sections model, augment and eval of a recipe, and the name of each output, if known;
        None where nothing of ixt's lies there.
    """
    if facts := _read(file.with_name(f"{file.name}.json"), "ixt"):
        return _sections(facts["model"], facts["model_kwargs"], facts["num_classes"], facts)
    config = _read(file.with_name("config.json"), "pretrained_cfg")
    settings = config["pretrained_cfg"] if config else {}
    if not config or settings.get("tag") != "ixt":
        return None
    arguments = config.get("model_args", {})
    kwargs = {key: value for key, value in arguments.items() if key not in _OF_EVERY_MODEL}
    known = {
        **settings,
        "image_size": settings["input_size"][-1],
        "class_names": config.get("label_names"),
    }
    return _sections(config["architecture"], kwargs, config["num_classes"], known)


def _read(file: Path, mark: str) -> Mapping[str, Any] | None:
    """A JSON object that has a key; None for anything else, which is no file of ixt's."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and mark in content else None


def _sections(
    name: str, kwargs: Mapping[str, Any], num_classes: int, facts: Mapping[str, Any]
) -> tuple[Mapping[str, Any], tuple[str, ...] | None]:
    size, names = facts["image_size"], facts["class_names"]
    cut = {key: facts[key] for key in ("crop_pct", "crop_mode", "interpolation")}
    sections = {
        "model": {"name": name, "num_classes": num_classes, "kwargs": dict(kwargs)},
        "augment": {"image_size": size, "mean": facts["mean"], "std": facts["std"]},
        "eval": {"image_size": size, **cut},
    }
    return sections, tuple(names) if names else None
