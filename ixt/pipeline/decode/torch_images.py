"""Decode single images with torchvision, and resize them with torch's antialiased uint8 kernels.

All of it releases the interpreter lock, so that threads suffice, see `threaded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ixt.images.byte_ranges import ByteRange, Bytes
from ixt.images.image import decode_with_pillow
from ixt.images.jpeg import find_frame
from ixt.pipeline.decode.base import outdated
from ixt.pipeline.plan.crop import BICUBIC, BILINEAR, Crops

_LIBRARIES = ("image_stable.so", "image.so")  # from torchvision 0.29 on, and before
_RGB = 3  # torchvision.io.ImageReadMode.RGB
_MODES = {BILINEAR: "bilinear", BICUBIC: "bicubic"}


def torch_squares(source: ByteRange, data: Bytes, cuts: Sequence[Crops], row: int) -> list[Tensor]:
    """Decode one image, and cut, resize and flip it as each of several plans says.

    `source` is for errors; `row` is the image's row of the plans.

    Returns:
        for each plan (size, size, 3) uint8 RGB.

    Raises:
        DamagedImage: the file cannot be decoded.
        DataError: a window does not lie inside the image.
    """
    image = _pixels(source, data)
    for crops in cuts:
        check_window(image.shape[0], image.shape[1], source.name, crops, row)
    return [resize_window(image, crops, row) for crops in cuts]


def resize_window(part: Tensor, crops: Crops, row: int, top: int = 0, left: int = 0) -> Tensor:
    """Resize a window of an image, cut the square out of it and flip it.

    `part`, (height, width, 3) uint8, holds the window and is left as it is; it begins in row `top`
    and column `left` of the image, which has this `row` of the plan.

    Returns:
        (size, size, 3) uint8, not always contiguous.
    """
    first, start, height, width = crops.window[row].tolist()
    # Contiguous, torch resizes interleaved pixels at twice the speed, with the same result.
    window = part[first - top : first - top + height, start - left : start - left + width]
    resized = interpolate(
        # With a batch dimension in front: without it, torch takes the slower way.
        window.contiguous()[None].permute(0, 3, 1, 2),
        crops.resize[row].tolist(),
        mode=_MODES[int(crops.filter[row])],
        antialias=True,
    )
    down, right = crops.offset[row].tolist()
    square = resized[0].permute(1, 2, 0)[down : down + crops.size, right : right + crops.size]
    flips = [axis for axis, flip in enumerate((crops.vflip[row], crops.hflip[row])) if flip]
    return square.flip(flips) if flips else square


def check_window(height: int, width: int, name: str, crops: Crops, row: int) -> None:
    """Refuse an image that the planned window does not lie in.

    Height and width are in pixels; `row` is the image's row of the plan.

    Raises:
        DataError: it has changed since it was indexed.
    """
    top, left, rows, columns = crops.window[row].tolist()
    if not (0 < rows <= height - top and 0 < columns <= width - left):
        raise outdated(name, crops, row, height, width)


def _pixels(source: ByteRange, data: Bytes) -> Tensor:
    """(H, W, 3) uint8 RGB of the stored image, identical with Pillow's convert("RGB").

    Raises:
        DamagedImage: the bytes cannot be decoded.
    """
    if find_frame(data.data) is not None:
        register_decode_jpeg()
        try:
            # The operator, because its wrapper decode_jpeg warns on each call since
            # torchvision 0.29 that TorchCodec is to replace it.
            pixels: Tensor = torch.ops.image.decode_jpeg(torch.from_numpy(data), _RGB, False)
            return pixels.permute(1, 2, 0)
        except RuntimeError:
            pass  # Pillow reads it all the same, or says what is wrong
    return torch.from_numpy(np.array(decode_with_pillow(source, data)))


@cache
def register_decode_jpeg() -> None:
    """Make torch.ops.image.decode_jpeg known.

    By torchvision's library alone, where it lies where the wheels have it: to import torchvision
    takes two seconds, for models and torch._dynamo behind them.
    """
    found = find_spec("torchvision")
    folders = [] if found is None else list(found.submodule_search_locations or [])
    candidates = (Path(folder, name) for folder in folders for name in _LIBRARIES)
    library = next((path for path in candidates if path.is_file()), None)
    if library is not None:
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    else:
        import_module("torchvision.io")
