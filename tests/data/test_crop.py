from __future__ import annotations

import random

import numpy as np
from PIL import Image
from scipy.stats import ks_2samp
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import functional as tvf

from ixt.data.crop import BICUBIC, BILINEAR, eval_crops, train_crops

SIZES = np.array([[375, 500], [500, 375], [333, 500], [257, 2000], [224, 224]], np.int32)


def test_eval_crops_have_torchvisions_size_and_offset() -> None:
    crops = eval_crops(SIZES, size=224, crop_pct=0.875)
    for row, (height, width) in enumerate(SIZES.tolist()):
        # Each pixel holds its own place, so the crop tells where it was cut.
        resized = tvf.resize(Image.new("L", (width, height)), 256).size
        assert crops.resize[row].tolist() == [resized[1], resized[0]]
        ramp = Image.fromarray(np.indices((resized[1], resized[0])).sum(0).astype(np.int32))
        corner = tvf.center_crop(ramp, 224).getpixel((0, 0))
        assert crops.offset[row].sum() == corner


def test_windows_are_distributed_as_timms() -> None:
    random.seed(0)
    image = Image.new("RGB", (500, 375))
    theirs = np.array(
        [
            RandomResizedCropAndInterpolation.get_params(image, (0.08, 1), (3 / 4, 4 / 3))
            for _ in range(5000)
        ]
    )
    sizes = np.tile(np.array([[375, 500]], np.int32), (5000, 1))
    ours = train_crops(sizes, (0, 0, np.arange(5000)), size=224).window
    for column in range(4):
        assert ks_2samp(theirs[:, column], ours[:, column]).pvalue > 1e-3


def test_flips_and_filters_have_their_probabilities() -> None:
    sizes = np.tile(np.array([[375, 500]], np.int32), (20_000, 1))
    crops = train_crops(sizes, (0, 0, np.arange(20_000)), size=224, hflip=0.3)
    assert abs(crops.hflip.mean() - 0.3) < 0.015
    assert not crops.vflip.any()
    assert abs((crops.filter == BICUBIC).mean() - 0.5) < 0.015
    assert set(np.unique(crops.filter)) == {BILINEAR, BICUBIC}


def test_an_image_too_long_for_any_window_gets_the_central_one() -> None:
    crops = train_crops(np.array([[10, 2000]], np.int32), (0, 0, [0]), size=8, scale=(0.9, 1.0))
    assert crops.window.tolist() == [[0, 993, 10, 13]]
