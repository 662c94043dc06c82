"""JPEGs like ImageNet's for benchmarks: parts of real photographs with a sensor's noise.

Their mean length and size, not their subjects, are those of ImageNet: what a decoder's time
depends on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "support"))
from photographs import open_photographs

WIDTH, HEIGHT = 500, 375  # ImageNet's most frequent size
_NOISE = 7.0  # grey levels, standard deviation
_QUALITIES = (88, 92, 95, 96)
NUM_CLASSES = 10


def write_photos(root: Path, num_train: int, num_val: int, seed: int = 0) -> None:
    """Write class folders train/ and val/ of 500 x 375 JPEGs, about 100 KB each.

    Args:
        root: an existing folder.
        num_train: training images.
        num_val: validation images.
        seed: of the parts taken and of the noise.
    """
    rng = np.random.default_rng(seed)
    photographs = open_photographs()
    for split, count in (("train", num_train), ("val", num_val)):
        for number in range(count):
            folder = root / split / f"n{number % NUM_CLASSES:08d}"
            folder.mkdir(parents=True, exist_ok=True)
            picture = _part(photographs[number % len(photographs)], rng)
            quality = _QUALITIES[number % len(_QUALITIES)]
            picture.save(folder / f"{split}_{number:06d}.JPEG", quality=quality)


def mean_kb(root: Path) -> float:
    """Mean length of the training files, in 1000 bytes."""
    sizes = [path.stat().st_size for path in (root / "train").rglob("*.JPEG")]
    return sum(sizes) / len(sizes) / 1000


def _part(photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random part of a photograph, its aspect ratio that of the result, with noise."""
    longest = min(photograph.width, photograph.height * WIDTH // HEIGHT)
    width = int(longest * rng.uniform(0.6, 1.0))
    height = width * HEIGHT // WIDTH
    left = int(rng.integers(photograph.width - width + 1))
    top = int(rng.integers(photograph.height - height + 1))
    part = photograph.resize(
        (WIDTH, HEIGHT), Image.Resampling.BICUBIC, (left, top, left + width, top + height)
    )
    noisy = np.asarray(part) + rng.normal(0, _NOISE, (HEIGHT, WIDTH, 3))
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))
