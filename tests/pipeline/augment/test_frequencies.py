from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ixt.pipeline.augment.frequencies import low_frequencies


def photo(size: int) -> Tensor:
    """Smooth noise of full contrast; (3, 3, size, size) uint8."""
    noise = torch.rand(3, 3, size // 2, size // 2, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(noise, size, mode="bicubic")
    return (large * 255).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(("side", "size"), [(224, 160), (224, 97), (48, 32), (33, 32)])
def test_the_result_is_the_centre_of_the_fourier_transform(side: int, size: int) -> None:
    images = photo(side)
    whole = torch.fft.fftshift(torch.fft.fft2(images.double()), dim=(-2, -1))
    first = side // 2 - size // 2
    centre = whole[..., first : first + size, first : first + size]
    exact = torch.fft.ifft2(torch.fft.ifftshift(centre, dim=(-2, -1))).real * (size / side) ** 2
    off = (low_frequencies(images, size) - exact.clamp(0, 255)).abs()
    assert float(off.max()) < 0.9  # 0.5 of rounding; the rest is of the matrix
    assert float(off.mean()) == pytest.approx(0.25, abs=0.02)


def test_a_grey_image_and_a_slow_wave_stay_as_they_are() -> None:
    grey = torch.full((1, 3, 60, 60), 77, dtype=torch.uint8)
    assert low_frequencies(grey, 40).unique().tolist() == [77]

    def wave(size: int) -> Tensor:
        turn = 2 * torch.pi * torch.arange(size, dtype=torch.float64) / size
        return (127.5 + 100 * torch.sin(3 * turn)).expand(1, 3, size, size)

    found = low_frequencies(wave(60).round().to(torch.uint8), 40)
    assert float((found - wave(40)).abs().max()) < 1.5


def test_pixels_are_the_same_alone_and_in_any_memory_order() -> None:
    images = photo(64)
    together = low_frequencies(images, 48)
    alone = [low_frequencies(image[None], 48) for image in images]
    assert torch.equal(together, torch.cat(alone))
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(together, low_frequencies(last, 48))
