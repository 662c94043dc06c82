"""The C code mixes and normalises to the last bit as the operators do that a GPU takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ixt.pipeline.augment.mixing import Mode, draw_mix, mix_images
from ixt.pipeline.augment.normalise import normalise
from ixt.pipeline.native import finish as native
from ixt.pipeline.native.build import library

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C compiler")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ORDERS = [torch.contiguous_format, torch.channels_last]


def batch(size: int, order: torch.memory_format) -> Tensor:
    images = torch.randint(0, 256, (8, 3, size, size), dtype=torch.uint8)
    return images.to(memory_format=order)


def without_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_mixup", lambda: None)
    monkeypatch.setattr(native, "_normalise", lambda: None)


def test_every_pair_of_grey_levels_is_mixed_alike() -> None:
    level = torch.arange(256, dtype=torch.uint8)
    own, partner = level.repeat_interleave(256), level.repeat(256)
    own, partner = own.view(1, 256, 256), partner.view(1, 256, 256)
    for lam in (0.0, 0.25, 0.5, 1 / 3, 0.8717948717948718, 1.0):  # halves among them
        mixed = torch.empty_like(own)
        assert native.mixup(own, partner, lam, 1.0 - lam, mixed)
        expected = (own.float() * lam).add_(partner.float() * (1.0 - lam)).round_()
        assert torch.equal(mixed.float(), expected)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [5, 32])
def test_batches_are_mixed_alike(
    mode: Mode, order: torch.memory_format, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = batch(size, order)
    count = {"batch": 2, "pair": 4, "elem": 8}[mode]
    table = draw_mix(
        (3, 0, np.arange(count)), image_size=size, mixup_alpha=0.8, cutmix_alpha=0, mode=mode
    )
    in_c = mix_images(images, table, 4)
    without_c(monkeypatch)
    assert torch.equal(mix_images(images, table, 4), in_c)
    assert not torch.equal(in_c, images)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [1, 5, 32])
def test_batches_are_normalised_alike(
    order: torch.memory_format, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = batch(size, order)
    in_c = normalise(images, MEAN, STD)
    assert in_c.stride() == images.stride()
    without_c(monkeypatch)
    assert torch.equal(normalise(images, MEAN, STD), in_c)


def test_memory_with_gaps_is_left_to_the_operators() -> None:
    images = batch(9, torch.contiguous_format)[..., :8, :8]
    numbers = np.ones(3, np.float32)
    assert not native.normalise(images, numbers, numbers, torch.empty_like(images.float()))
    assert not native.mixup(images[0], images[1], 0.5, 0.5, torch.empty_like(images)[2])
    expected = (images.float() - 255 * torch.tensor(MEAN).view(3, 1, 1)) / (
        255 * torch.tensor(STD).view(3, 1, 1)
    )
    assert torch.allclose(normalise(images, MEAN, STD), expected)
