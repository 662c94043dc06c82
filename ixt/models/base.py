"""The weights that a run starts from: which file, and its SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import get_pretrained_cfg

from ixt.checkpoint.folder import sha256
from ixt.checkpoint.info import CheckpointInfo
from ixt.checkpoint.weight_files import Kind
from ixt.models.create import name_in_timm
from ixt.recipe import Model

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in timm's order


@dataclass(frozen=True)
class Base:
    """Weights to start from."""

    name: str
    """The file or folder as it was given, or timm's name with its tag."""
    file: Path | None
    """The file read; None where timm's is not in a cache."""
    kind: Kind | Literal["published"]
    info: CheckpointInfo | None = None
    match_by_order: bool = False
    """Whether its tensors were matched with the model's by order, not by name."""

    def record(self) -> dict[str, Any]:
        """What the run keeps of it, JSON-able; reads the whole file for its SHA-256."""
        return {
            "name": self.name,
            "file": self.file.name if self.file else None,
            "weights": self.kind,
            "sha256": sha256(self.file) if self.file else None,
            "match_by_order": self.match_by_order,
        }


def published_base(settings: Model) -> Base:
    """The published weights of a model, as timm has just loaded them from a cache.

    Their `pretrained` is set.
    """
    cfg = get_pretrained_cfg(name_in_timm(settings.name))
    name = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else str(cfg.architecture)
    return Base(name, _cached(cfg, settings.kwargs.get("cache_dir")), "published")


def _cached(cfg: Any, cache_dir: str | None) -> Path | None:
    """The file behind one of timm's configurations; None where no cache has it."""
    if cfg.hf_hub_id:
        repository, _, revision = cfg.hf_hub_id.partition("@")
        names = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else _HUB_FILES
        found = (
            try_to_load_from_cache(repository, name, cache_dir, revision or None) for name in names
        )
        return next((Path(path) for path in found if isinstance(path, str)), None)
    folder = Path(cache_dir or Path(torch.hub.get_dir()) / "checkpoints")
    file = folder / Path(cfg.url or "").name
    return file if file.is_file() else None
