"""What DALI computes for a batch: windows of its images, or the squares cut out of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types

from ixt.images.byte_ranges import Bytes
from ixt.pipeline.decode.base import GpuDecoding, Request
from ixt.pipeline.plan.crop import BICUBIC, BILINEAR

Columns = tuple[NDArray[Any] | list[Bytes], ...]
"""What a graph reads, one entry for each image of a request; first the path, or the bytes."""

_FILTERS = np.zeros(max(BILINEAR, BICUBIC) + 1, np.int32)
_FILTERS[BILINEAR] = int(types.INTERP_LINEAR)
_FILTERS[BICUBIC] = int(types.INTERP_CUBIC)

# dtype and dimensions per image of each column.
_WINDOW_COLUMNS = [(types.UINT8, 1), (types.INT32, 1), (types.INT32, 1)]
_CUT_COLUMNS = [*3 * [(types.FLOAT, 1)], *3 * [(types.INT32, 0)]]

# Without fancy upsampling, nvJPEG enlarges the chroma by nearest neighbour, unlike libjpeg-turbo
# on which published weights were trained.
_GPU_DECODER = {
    "device": "mixed",
    "jpeg_fancy_upsampling": True,
    "affine": False,
}
_CPU_DECODER = {"device": "cpu"}


@dataclass(frozen=True)
class Graph:
    """What a pipeline reads and computes."""

    columns: Callable[[Request, list[Bytes] | None], Columns]
    """A request, and its encoded images where the pipeline does not read files -> its input."""
    output: Callable[[Callable[[], Columns], bool], Any]
    """What gives the input, whether that names files -> the pipeline's output."""
    cuts: bool
    """Whether the output is the squares, (size, size, 3), rather than the windows, (h, w, 3)."""


def squares_graph(decoder: dict[str, Any], *, on_gpu: bool) -> Graph:
    """Decode windows, resize, cut and flip them.

    Args:
        decoder: what `decoder_options` gives.
        on_gpu: whether the squares are made on the GPU.
    """
    return Graph(_square_columns, partial(_squares, decoder, on_gpu), cuts=True)


def decoder_options(gpu: GpuDecoding) -> dict[str, Any]:
    """Arguments of DALI's decoding operator where a GPU takes the images."""
    if gpu.decode_device == "cpu":
        return _CPU_DECODER
    options = {**_GPU_DECODER, "hw_decoder_load": gpu.hw_decoder_load}
    if gpu.hw_decoder_load and gpu.largest is not None:  # without the hardware, nothing is held
        height, width = gpu.largest
        options |= {"preallocate_height_hint": height, "preallocate_width_hint": width}
    return options


def _windows(source: Callable[[], Columns], files: bool) -> Any:
    return _decode(_CPU_DECODER, files, *_inputs(source, _WINDOW_COLUMNS))


def _squares(
    decoder: dict[str, Any], on_gpu: bool, source: Callable[[], Columns], files: bool
) -> Any:
    *window, roi_start, roi_end, size, interpolation, hflip, vflip = _inputs(
        source, _WINDOW_COLUMNS + _CUT_COLUMNS
    )
    images = _decode(decoder, files, *window)
    if on_gpu and decoder["device"] == "cpu":
        images = images.gpu()
    images = fn.resize(
        images,
        size=size,
        roi_start=roi_start,
        roi_end=roi_end,
        antialias=True,
        interp_type=fn.reinterpret(interpolation, dtype=types.INTERP_TYPE),
    )
    return fn.flip(images, horizontal=hflip, vertical=vflip)


def _inputs(source: Callable[[], Columns], columns: list[tuple[Any, int]]) -> Any:
    dtypes, dims = (list(part) for part in zip(*columns, strict=True))
    return fn.external_source(source, num_outputs=len(dtypes), batch=True, dtype=dtypes, ndim=dims)


def _decode(decoder: dict[str, Any], files: bool, first: Any, start: Any, shape: Any) -> Any:
    return fn.decoders.image_slice(
        # Mapped files fault page by page where they lie on a network file system.
        fn.io.file.read(first, dont_use_mmap=True) if files else first,
        start=start,
        shape=shape,
        axis_names="HW",
        output_type=types.RGB,
        adjust_orientation=False,
        **decoder,
    )


def _window_columns(request: Request, encoded: list[Bytes] | None) -> Columns:
    window = request.crops.window
    first = _names(request) if encoded is None else encoded
    return (first, np.ascontiguousarray(window[:, :2]), np.ascontiguousarray(window[:, 2:]))


def _square_columns(request: Request, encoded: list[Bytes] | None) -> Columns:
    """Those of the window, and how it is cut.

    The square cut out of the resized window becomes the region of the window that it shows, so
    DALI computes no pixel that is thrown away, and rounds neither size nor offset its own way.
    """
    crops = request.crops
    scale = crops.window[:, 2:] / crops.resize
    return (
        *_window_columns(request, encoded),
        (crops.offset * scale).astype(np.float32),
        ((crops.offset + crops.size) * scale).astype(np.float32),
        np.full((len(request), 2), crops.size, np.float32),
        _FILTERS[crops.filter],
        crops.hflip.astype(np.int32),
        crops.vflip.astype(np.int32),
    )


def _names(request: Request) -> NDArray[np.uint8]:
    """The paths of a request, padded with NUL, where opening a file ends its name."""
    names = np.array([os.fsencode(source.path) for source in request.ranges])
    return np.ascontiguousarray(names.view(np.uint8).reshape(len(names), -1))


WINDOWS = Graph(_window_columns, _windows, cuts=False)
"""Windows decoded on the CPU by libjpeg-turbo, as they are."""
