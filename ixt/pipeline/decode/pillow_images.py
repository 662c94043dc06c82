"""Decode, resize and crop with Pillow, as torchvision's transforms on Pillow images do.

Bit for bit the pixels of timm's and torchvision's usual preprocessing, on which published
accuracies were measured. Pillow releases the interpreter lock while it decodes and resizes, so that
threads suffice, see `decode_threads`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ixt.images.byte_ranges import ByteRange, Bytes
from ixt.images.image import decode_with_pillow
from ixt.pipeline.decode.base import outdated
from ixt.pipeline.plan.crop import BICUBIC, BILINEAR, Crops

_FILTERS = {
    BILINEAR: Image.Resampling.BILINEAR,
    BICUBIC: Image.Resampling.BICUBIC,
}


def pillow_squares(source: ByteRange, data: Bytes, cuts: Sequence[Crops], row: int) -> list[Tensor]:
    """Decode one image, and cut, resize and flip it as each of several plans says.

    Args, result and errors are those of `torch_squares`.
    """
    image = decode_with_pillow(source, data)
    return [cut_with_pillow(image, source.name, crops, row) for crops in cuts]


def cut_with_pillow(image: Image.Image, name: str, crops: Crops, row: int) -> Tensor:
    """Cut a window out of an image, resize it, cut the square, flip: torchvision's order.

    `image` is RGB; the error calls it `name`; `row` is its row of the plan.

    Returns:
        (size, size, 3) uint8 RGB.

    Raises:
        DataError: the window does not lie inside the image.

    Source: Resize, CenterCrop and resized_crop of torchvision.transforms for Pillow images.
    """
    top, left, height, width = crops.window[row].tolist()
    if not (0 < height <= image.height - top and 0 < width <= image.width - left):
        raise outdated(name, crops, row, image.height, image.width)
    if (height, width) != (image.height, image.width):
        image = image.crop((left, top, left + width, top + height))
    new_height, new_width = crops.resize[row].tolist()
    image = image.resize((new_width, new_height), _FILTERS[int(crops.filter[row])])
    down, right = crops.offset[row].tolist()
    image = image.crop((right, down, right + crops.size, down + crops.size))
    if crops.hflip[row]:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if crops.vflip[row]:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return torch.from_numpy(np.array(image))
