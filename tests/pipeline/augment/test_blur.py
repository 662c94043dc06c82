import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import functional as F

from ixt.pipeline.augment.blur import kernel_blur


def test_kernel_blur_is_torchvisions_but_for_rounding(photographs: Tensor) -> None:
    sigma = np.linspace(0.1, 2.0, 20)
    images = photographs[np.arange(20) % len(photographs)]
    ours = kernel_blur(images, sigma)
    theirs = [F.gaussian_blur(x, 23, s) for x, s in zip(images, sigma.tolist(), strict=True)]
    difference = (ours.int() - torch.stack(theirs).int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 5e-5


def test_a_flat_image_and_a_tiny_blur_change_nothing(photographs: Tensor) -> None:
    flat = torch.full((1, 3, 24, 24), 255, dtype=torch.uint8)
    assert torch.equal(kernel_blur(flat, np.array([1.7])), flat)
    assert torch.equal(kernel_blur(photographs[:1], np.array([0.1])), photographs[:1])
