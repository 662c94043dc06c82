"""Runs that were never trained: small models with weights that no layer leaves without effect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ixt.checkpoint import save_checkpoint
from ixt.models import create_model
from ixt.recipe import parse_recipe

CONVNEXT = {"depths": [1, 1, 2, 1], "dims": [16, 32, 48, 64]}
FAMILIES: dict[str, dict[str, Any]] = {
    "inceptionnext_atto": CONVNEXT,
    "convnext_tiny_k5": CONVNEXT,
    "convnext_tiny_k3_par1_4": CONVNEXT,
    "resnet50": {"layers": [1, 1, 1, 1]},
}
NAMES = tuple(str(digit) for digit in range(10))
SIZE = 64
MACHINE = {
    "ixt": "0.1.0",
    "git_commit": "0123abc",
    "python": "3.11",
    "packages": {"torch": "2.14.1", "nvidia-dali-cuda130": None},
    "cpu": "A CPU",
    "cpu_cores": 2,
    "devices": [],
    "processes": 1,
}

SaveRun = Callable[..., Path]


def stirred(model: nn.Module) -> nn.Module:
    """The model with every parameter and statistic drawn anew: layer scales start near zero."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            draw = 0.2 * torch.randn(tensor.shape, generator=generator)
            tensor.copy_(draw.abs() + 0.5 if name.endswith("running_var") else draw)
    return model


@pytest.fixture
def save_run(tmp_path: Path, digits: Path) -> SaveRun:
    """Write a run folder with one checkpoint; its EMA weights are the raw ones halved."""

    def save(name: str = "inceptionnext_atto", *, ema: bool = True, root: Path = digits) -> Path:
        recipe = parse_recipe(
            {
                "model": {"name": name, "kwargs": FAMILIES[name]},
                "data": {"root": str(root)},
                "augment": {"image_size": SIZE, "mean": [0.4, 0.5, 0.6]},
                "eval": {"crop_pct": 0.9, "interpolation": "bilinear"},
                "engine": {"global_batch_size": 256, "micro_batch_size": 64},
            }
        )
        weights = stirred(create_model(name, num_classes=10, **FAMILIES[name])).state_dict()
        averages = {k: v / 2 for k, v in weights.items() if v.is_floating_point()}
        state = {
            "step": 10,
            "epoch": 2,
            "recipe": recipe.model_dump(mode="json"),
            "class_names": list(NAMES),
            "metrics": {"top1": 50.0, "ema_top1": 61.5, "ema_top5": 93.25, "ema_count": 360},
            "machine": MACHINE,
        }
        run = tmp_path / "run"
        save_checkpoint(run, {"model": weights, "ema": averages if ema else {}}, state)
        return run

    return save
