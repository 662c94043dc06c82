"""Real photographs as batches: scikit-learn's two and those in scikit-image's wheel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

_IN_SKIMAGE = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")


def open_photographs() -> list[Image.Image]:
    """Seven RGB photographs of 427 x 640 pixels and less, down to 300 x 451."""
    folder = Path(skimage.__file__).parent / "data"
    others = [Image.open(folder / name).convert("RGB") for name in _IN_SKIMAGE]
    return [*(Image.fromarray(pixels) for pixels in load_sample_images().images), *others]


def crops(size: int = 224) -> Tensor:
    """(14, 3, size, size) uint8: a part of each photograph, and the whole one squeezed."""
    parts = []
    for photo in open_photographs():
        left, top = (photo.width - size) // 2, (photo.height - size) // 2
        parts += [photo.crop((left, top, left + size, top + size)), photo.resize((size, size))]
    stacked = np.stack([np.asarray(part) for part in parts])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def to_pillow(image: Tensor) -> Image.Image:
    """A (3, S, S) uint8 tensor as a picture."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def from_pillow(picture: Image.Image) -> Tensor:
    """A picture as a (3, S, S) uint8 tensor."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
