"""The C code rotates to the last bit as the operators do that a GPU takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ixt.pipeline.augment import warp
from ixt.pipeline.native import rotate as native
from ixt.pipeline.native.build import library

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C compiler")

FILL = torch.tensor([124, 0, 255], dtype=torch.uint8).view(3, 1, 1)


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7, 32, 97, 224])
def test_rotations_are_equal_to_the_last_bit(size: int, cubic: bool) -> None:
    rng = np.random.default_rng(size)
    images = torch.from_numpy(rng.integers(0, 256, (12, 3, size, size), np.uint8))
    degrees = np.concatenate([[0.0, 90.0, 180.0, -270.0, 1e-9], rng.uniform(-400, 400, 7)])
    terms = warp._rotation(degrees, size)
    rotated = native.rotate(images, terms, cubic, FILL)
    assert rotated is not None
    assert torch.equal(rotated, warp._resample(images, terms, cubic, FILL))


def test_operators_stand_in_where_there_is_no_c_code(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with_c = warp._rotate(images, np.array([20.0, -5.0]), True, FILL)
    monkeypatch.setattr(native, "_function", lambda: None)
    assert torch.equal(warp._rotate(images, np.array([20.0, -5.0]), True, FILL), with_c)
