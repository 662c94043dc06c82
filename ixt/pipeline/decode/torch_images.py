"""Decode single images with torch: JPEGs in C or by torchvision, torch's antialiased uint8 resize.

All of it releases the interpreter lock, so that threads suffice, see `decode_threads`.
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
from ixt.pipeline.decode.base import outdated
from ixt.pipeline.native.jpeg import decode_window
from ixt.pipeline.plan.crop import BICUBIC, BILINEAR, Crops

_JPEG_START = b"\xff\xd8"
_LIBRARIES = ("image_stable.so", "image.so")  # from torchvision 0.29 on, and before
_RGB = 3  # torchvision.io.ImageReadMode.RGB
_MODES = {BILINEAR: "bilinear", BICUBIC: "bicubic"}


def torch_squares(source: ByteRange, data: Bytes, cuts: Sequence[Crops], row: int) -> list[Tensor]:
    """Decode one image, and cut, resize and flip it as each of several plans says.

    The pixels are libjpeg-turbo's. Of an ordinary JPEG, only the part that the cuts take is
    decoded.

    Args:
        source: where it lies, for errors.
        data: its bytes.
        cuts: the plans.
        row: the image's row of them.

    Returns:
        for each plan (size, size, 3) uint8 RGB.

    Raises:
        DamagedImage: the file cannot be decoded.
        DataError: a window does not lie inside the image.
    """
    top, left, height, width = _around(cuts, row)
    part = decode_window(data, top, left, height, width)
    if part is None:
        part, top, left = _pixels(source, data), 0, 0
        for crops in cuts:
            _check_window(part, source.name, crops, row)
    return [resize_window(_window(part, top, left, crops, row), crops, row) for crops in cuts]


def resize_window(window: Tensor, crops: Crops, row: int) -> Tensor:
    """Resize a window of an image, cut the square out of it and flip it.

    Args:
        window: (height, width, 3) uint8, contiguous; left as it is.
        crops: the plan.
        row: the image's row of it.

    Returns:
        (size, size, 3) uint8, not always contiguous.
    """
    resized = interpolate(
        # With a batch dimension in front: without it, torch takes the slower way.
        window[None].permute(0, 3, 1, 2),
        crops.resize[row].tolist(),
        mode=_MODES[int(crops.filter[row])],
        antialias=True,
    )
    down, right = crops.offset[row].tolist()
    square = resized[0].permute(1, 2, 0)[down : down + crops.size, right : right + crops.size]
    flips = [axis for axis, flip in enumerate((crops.vflip[row], crops.hflip[row])) if flip]
    return square.flip(flips) if flips else square


def _around(cuts: Sequence[Crops], row: int) -> list[int]:
    """Top, left, height and width of the smallest part that holds an image's windows."""
    if len(cuts) == 1:
        return cuts[0].window[row].tolist()  # type: ignore[no-any-return]
    windows = np.stack([crops.window[row] for crops in cuts])
    start, stop = windows[:, :2], windows[:, :2] + windows[:, 2:]
    return [*start.min(0).tolist(), *(stop.max(0) - start.min(0)).tolist()]


def _window(part: Tensor, top: int, left: int, crops: Crops, row: int) -> Tensor:
    """A cut's window out of a part of the image that begins at top, left."""
    first, start, height, width = crops.window[row].tolist()
    down, right = first - top, start - left
    # Contiguous, torch resizes interleaved pixels at twice the speed, with the same result.
    return part[down : down + height, right : right + width].contiguous()


def _check_window(pixels: Tensor, name: str, crops: Crops, row: int) -> None:
    top, left, height, width = crops.window[row].tolist()
    if not (0 < height <= pixels.shape[0] - top and 0 < width <= pixels.shape[1] - left):
        raise outdated(name, crops, row, pixels.shape[0], pixels.shape[1])


def _pixels(source: ByteRange, data: Bytes) -> Tensor:
    """(H, W, 3) uint8 RGB of the stored image, identical with Pillow's convert("RGB").

    Raises:
        DamagedImage: the bytes cannot be decoded.
    """
    if data[:2].tobytes() == _JPEG_START:
        _register_decode_jpeg()
        try:
            # The operator, because its wrapper decode_jpeg warns on each call since
            # torchvision 0.29 that TorchCodec is to replace it.
            pixels: Tensor = torch.ops.image.decode_jpeg(torch.from_numpy(data), _RGB, False)
            return pixels.permute(1, 2, 0)
        except RuntimeError:
            pass  # Pillow reads it all the same, or says what is wrong
    return torch.from_numpy(np.array(decode_with_pillow(source, data)))


@cache
def _register_decode_jpeg() -> None:
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
