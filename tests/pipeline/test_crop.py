from __future__ import annotations

import random

import numpy as np
import torch
from PIL import Image
from scipy.stats import chi2_contingency, ks_2samp
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import RandomCrop
from torchvision.transforms import functional as tvf

from ixt.pipeline.augment.shift import reflect_shift
from ixt.pipeline.plan.crop import BICUBIC, BILINEAR, eval_crops, simple_crops, train_crops

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


def test_simple_crops_are_as_frequent_as_torchvisions() -> None:
    torch.manual_seed(0)
    padded = torch.zeros(3, 24 + 8, 30 + 8)
    theirs = np.array([RandomCrop.get_params(padded, (24, 24))[:2] for _ in range(10_000)]) - 4
    sizes = np.tile(np.array([[48, 60]], np.int32), (10_000, 1))
    crops = simple_crops(sizes, (0, 0, np.arange(10_000)), size=24, hflip=0.0)
    assert crops.shift is not None
    ours = crops.offset + crops.shift
    assert (crops.resize == [24, 30]).all()
    for axis, places in ((0, 9), (1, 15)):
        counts = [np.bincount(x[:, axis] + 4, minlength=places) for x in (ours, theirs)]
        assert len(counts[0]) == len(counts[1]) == places
        assert chi2_contingency(np.stack(counts)).pvalue > 1e-3


def test_a_simple_crop_is_a_square_of_the_reflected_image(photographs: Tensor) -> None:
    # As a decoder cuts it, flipped, and then moved; against padding, cutting and flipping.
    image = photographs[0, :, :24, :30]
    padded = torch.nn.functional.pad(image[None].float(), (4,) * 4, mode="reflect")[0].byte()
    sizes = np.tile(np.array([[24, 30]], np.int32), (200, 1))
    crops = simple_crops(sizes, (1, 0, np.arange(200)), size=24, vflip=0.5)
    assert crops.shift is not None and (crops.shift != 0).any(axis=0).all()
    wanted = crops.offset + crops.shift * np.where(
        np.stack([crops.vflip, crops.hflip], axis=1), -1, 1
    )
    for row in range(200):
        flips = [axis for axis, on in ((1, crops.vflip[row]), (2, crops.hflip[row])) if on]
        y, x = crops.offset[row].tolist()
        square = image[:, y : y + 24, x : x + 24].flip(flips)
        ours = reflect_shift(square[None], crops.shift[[row]])[0]
        y, x = (wanted[row] + 4).tolist()
        assert torch.equal(ours, padded[:, y : y + 24, x : x + 24].flip(flips))
