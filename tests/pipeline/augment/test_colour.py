import numpy as np
import pytest
import torch
from photographs import from_pillow, to_pillow
from torch import Tensor
from torchvision.transforms import functional as F

from ixt.pipeline.augment.colour import hue


def torchvisions(image: Tensor, steps: int) -> Tensor:
    # Half a step more, because torchvision truncates the product with 255.
    factor = (steps + np.sign(steps) / 2) / 255
    return from_pillow(F.adjust_hue(to_pillow(image), float(np.clip(factor, -0.5, 0.5))))


def test_hue_is_torchvisions_on_pillow_at_every_strength(photographs: Tensor) -> None:
    steps = np.linspace(-127, 127, 20).astype(int)
    images = photographs[np.arange(20) % len(photographs)]
    ours = hue(images, steps.astype(np.float64))
    for image, step, result in zip(images, steps.tolist(), ours, strict=True):
        assert torch.equal(result, torchvisions(image, step))


@pytest.mark.parametrize(
    "steps", [37, *(pytest.param(s, marks=pytest.mark.slow) for s in (-127, -1, 0, 1, 90))]
)
def test_hue_is_pillows_for_every_colour(steps: int) -> None:
    # All colours whose red is a multiple of 17: every sixth of the circle, every tie, every grey.
    reds = range(0, 256, 17) if steps == 37 else range(256)
    levels = torch.arange(256, dtype=torch.uint8)
    green, blue = torch.meshgrid(levels, levels, indexing="ij")
    for red in reds:
        colours = torch.stack([torch.full_like(green, red), green, blue])
        ours = hue(colours[None], np.array([float(steps)]))[0]
        assert torch.equal(ours, torchvisions(colours, steps)), red
