"""Decode only the window of a JPEG that a crop takes, with nvImageCodec (in `ixt[dali]`).

No row below the window is decoded, and of what lies above and beside it only the coefficients are
read: a training crop takes four fifths of the time. Both libraries run libjpeg-turbo, so that the
pixels are those of torchvision's decoder on the whole image, bit for bit.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ixt.data.headers import HEAD_BYTES, jpeg_frame
from ixt.data.source import Bytes

_END = b"\xff\xd9"  # end of image: without it the file is cut off, which a window may not show
_CHANNELS = (1, 3)  # CMYK comes out otherwise
# libjpeg-turbo enlarges the chroma of one or two columns by repetition, without interpolating.
_LEAST_WIDTH = 16

_of_thread = threading.local()


def decode_window(data: Bytes, top: int, left: int, height: int, width: int) -> Tensor | None:
    """Decode a part of a JPEG.

    Args:
        data: the file's bytes.
        top: first row.
        left: first column.
        height: rows.
        width: columns.

    Returns:
        (height, width, 3) uint8 RGB; None where the image has to be decoded as a whole: no
        ordinary JPEG, cut off, smaller than the window or no larger, or a window of a few
        columns.
    """
    if data[-2:].tobytes() != _END:
        return None
    frame = jpeg_frame(data[:HEAD_BYTES].tobytes())
    if frame is None or frame.channels not in _CHANNELS:
        return None
    if not (0 < height <= frame.height - top and _LEAST_WIDTH <= width <= frame.width - left):
        return None
    if (height, width) == (frame.height, frame.width):
        return None  # nothing is saved, and torchvision refuses more kinds of damage
    codec, decoder, settings = _decoder()
    window = codec.Region(top, left, top + height, left + width)
    image = decoder.decode(codec.CodeStream(data).get_sub_code_stream(0, window), params=settings)
    if image is None:
        return None
    # Not by DLPack, which asks for a CUDA device even where the pixels lie in main memory.
    return torch.from_numpy(np.asarray(image))


@cache
def has_window_decoder() -> bool:
    """Whether nvImageCodec is installed."""
    try:
        return find_spec("nvidia.nvimgcodec") is not None
    except ModuleNotFoundError:  # not even the namespace package `nvidia`
        return False


def _decoder() -> tuple[Any, Any, Any]:
    """The library, and this thread's decoder with its settings: threads cannot share one."""
    if not hasattr(_of_thread, "decoder"):
        # Of what it cannot decode it would write a line to stderr; the decoder of whole images
        # is asked next, and says what is wrong.
        os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
        from nvidia import nvimgcodec

        _of_thread.decoder = (
            nvimgcodec,
            nvimgcodec.Decoder(
                device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
                max_num_cpu_threads=1,
                backends=[nvimgcodec.Backend(nvimgcodec.CPU_ONLY)],
            ),
            nvimgcodec.DecodeParams(apply_exif_orientation=False),
        )
    found: tuple[Any, Any, Any] = _of_thread.decoder
    return found
