"""Decode a window of a JPEG in C; see jpeg.c."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from ixt.images.byte_ranges import Bytes
from ixt.pipeline.native.build import function

_of_thread = threading.local()


def decode_window(data: Bytes, top: int, left: int, height: int, width: int) -> Tensor | None:
    """Decode a part of a JPEG, as torchvision decodes the whole.

    Args:
        data: the file's bytes.
        top: first row.
        left: first column.
        height: rows.
        width: columns.

    Returns:
        (height, width, 3) uint8 RGB, contiguous, in memory that this thread's next call uses
        again; None where torchvision has to be asked: the file is no ordinary JPEG or not sound,
        the window is not inside of it, or there is no C code.
    """
    decode = _function()
    if decode is None or height < 1 or width < 1:
        return None
    window = _memory(height * width * 3)
    refused = decode(data.ctypes.data, data.size, top, left, height, width, window.data_ptr())
    return None if refused else window.view(height, width, 3)


def _memory(num_bytes: int) -> Tensor:
    """Of this thread's own: fresh memory for each image would cost a tenth of decoding it."""
    memory: Tensor | None = getattr(_of_thread, "memory", None)
    if memory is None or len(memory) < num_bytes:
        memory = _of_thread.memory = torch.empty(num_bytes, dtype=torch.uint8)
    return memory[:num_bytes]


def _function() -> Callable[..., int] | None:
    place, number = ctypes.c_void_p, ctypes.c_int
    return function("ixt_jpeg_window", place, ctypes.c_size_t, *[number] * 4, place)
