"""What the exported runs are made of: small models, names, a machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

CONVNEXT = {"depths": [1, 1, 2, 1], "dims": [16, 32, 48, 64]}
SHALLOW = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
FAMILIES: dict[str, dict[str, Any]] = {
    "inceptionnext_atto": SHALLOW,
    "convnext_tiny_k5": CONVNEXT,
    "convnext_tiny_k3_par1_4": CONVNEXT,
    "resnet18": {"layers": [1, 1, 1, 1]},
    "resnetblur18": {"layers": [1, 1, 1, 1]},
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
