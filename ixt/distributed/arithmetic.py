"""How a CUDA device multiplies fp32 numbers, and which of cuDNN's algorithms it may take."""

from __future__ import annotations

import torch

from ixt.recipe import Recipe


def set_math(recipe: Recipe, cuda: bool) -> None:
    """Set TF32 and cuDNN's algorithms explicitly, since torch's defaults differ by version."""
    if not cuda:
        return
    set_tf32(recipe.engine.tf32)
    torch.backends.cudnn.deterministic = recipe.engine.deterministic
    torch.backends.cudnn.benchmark = not recipe.engine.deterministic


def set_tf32(on: bool) -> None:
    """Let convolutions and matrix products of fp32 be rounded to TF32, or not.

    torch has an older and a newer switch for each, and refuses to read the older one where only the
    newer is set, as Inductor does in mode max-autotune (pytorch#166387). Inductor's convolutions
    read the newer one of all of cuDNN. So all of them are set, and agree.
    """
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on
    torch.backends.cudnn.fp32_precision = "tf32" if on else "ieee"
