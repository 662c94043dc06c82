"""Decode, resize and crop with Pillow, as torchvision's transforms on Pillow images do.

Bit for bit the pixels of timm's and torchvision's usual preprocessing, on which published
accuracies were measured. `decode_torch` runs it in its threads: Pillow releases the interpreter
lock while it decodes and resizes.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ixt.data.crop import BICUBIC, BILINEAR, Crops
from ixt.data.decode import outdated
from ixt.data.decode_torch import Codec
from ixt.data.image import decode_with_pillow

_FILTERS = {
    BILINEAR: Image.Resampling.BILINEAR,
    BICUBIC: Image.Resampling.BICUBIC,
}


def cut_with_pillow(image: Image.Image, name: str, crops: Crops, row: int) -> Tensor:
    """Cut a window out of an image, resize it, cut the square, flip: torchvision's order.

    Args:
        image: RGB.
        name: what the error calls it.
        crops: the plan.
        row: the image's row of it.

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


PILLOW = Codec(decode_with_pillow, cut_with_pillow)
"""Pillow all the way."""
