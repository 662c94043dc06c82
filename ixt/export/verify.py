"""Whether an export computes what its source does: the same images through both."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ixt.errors import DataError
from ixt.images.hold_out import load_split
from ixt.pipeline.augment.normalise import normalise
from ixt.pipeline.decode.base import Request
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.plan.crop import eval_crops
from ixt.recipe import Recipe

Forward = Callable[[Tensor], Tensor]

_RANDOM = 4  # a batch of one and one of three
_REAL = 4
# Two kernels for the same sum round differently; logits beyond 1 do so in proportion.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Agreement:
    """How far the logits of two models are apart."""

    max_difference: float
    """Largest absolute difference of a logit."""
    allowed: float
    """1e-4, times the largest logit where that exceeds 1."""
    num_random: int
    """Images of normal noise compared."""
    num_real: int
    """Validation images compared."""

    def __bool__(self) -> bool:
        return self.max_difference <= self.allowed  # False for NaN


@torch.no_grad()
def compare(model: nn.Module, exported: Forward, recipe: Recipe, real_images: bool) -> Agreement:
    """Compare logits on noise and on validation images, in batches of one, three and the rest.

    The model is in evaluation mode, on the CPU; `exported` is from (B, 3, S, S) float32 images, for
    any B, to (B, num_classes) logits. Validation images are those of the recipe's data folder, if
    it is here and `real_images` is set.
    """
    noise = _noise(recipe.eval_size)
    real = _validation_images(recipe) if real_images else noise[:0]
    images = torch.cat((noise, real))
    batches = [batch for batch in images.tensor_split([1, _RANDOM]) if len(batch)]
    expected = torch.cat([model(batch) for batch in batches])
    found = torch.cat([exported(batch) for batch in batches])
    return Agreement(
        max_difference=float((found - expected).abs().max()),
        allowed=_TOLERANCE * max(1.0, float(expected.abs().max())),
        num_random=len(noise),
        num_real=len(real),
    )


def _noise(size: int) -> Tensor:
    return torch.randn(_RANDOM, 3, size, size, generator=torch.Generator().manual_seed(0))


def _validation_images(recipe: Recipe) -> Tensor:
    """A few images spread over the validation split; none where the data is not on this machine."""
    nothing = torch.empty(0, 3, recipe.eval_size, recipe.eval_size)
    root = recipe.data.root
    if root is None or not Path(root).exists():  # a folder, or a list
        return nothing
    try:
        index = load_split(root, "val", recipe.data.val_fraction)
    except DataError:
        return nothing
    readable = np.setdiff1d(np.arange(len(index)), index.unreadable)
    if not len(readable):
        return nothing
    samples = np.unique(readable[np.linspace(0, len(readable) - 1, _REAL).astype(np.int64)])
    crops = eval_crops(
        index.sizes[samples],
        size=recipe.eval_size,
        crop_pct=recipe.eval.crop_pct,
        interpolation=recipe.eval.interpolation,
    )
    cpu = torch.device("cpu")
    with closing(
        make_decoder("torch", device=cpu, num_threads=1, prefetch=1, on_error="skip")
    ) as decoder:
        (decoded,) = decoder.stream([Request(index.ranges(samples), crops)])
    return normalise(decoded.images, recipe.augment.mean, recipe.augment.std).contiguous()
