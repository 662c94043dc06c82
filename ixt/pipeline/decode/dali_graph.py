"""What DALI computes for a batch: windows of JPEGs decoded, resized, cut and flipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from nvidia.dali import fn, types

from ixt.images.byte_ranges import Bytes
from ixt.pipeline.decode.base import GpuDecoding
from ixt.pipeline.plan.crop import BICUBIC, BILINEAR, Crops

_FILTERS = np.zeros(max(BILINEAR, BICUBIC) + 1, np.int32)
_FILTERS[BILINEAR] = int(types.INTERP_LINEAR)
_FILTERS[BICUBIC] = int(types.INTERP_CUBIC)

# dtype and dimensions per image of each column: bytes, start and shape of the window, begin and end
# of the part of it that the square shows, its size, resampling filter, flips.
_COLUMNS = [
    (types.UINT8, 1),
    *2 * [(types.INT32, 1)],
    *3 * [(types.FLOAT, 1)],
    *3 * [(types.INT32, 0)],
]

# Without fancy upsampling, nvJPEG enlarges the chroma by nearest neighbour, unlike libjpeg-turbo
# on which published weights were trained.
_GPU_DECODER = {
    "device": "mixed",
    "jpeg_fancy_upsampling": True,
    "affine": False,
}
_CPU_DECODER = {"device": "cpu"}


def decoder_options(gpu: GpuDecoding) -> dict[str, Any]:
    """Arguments of DALI's decoding operator where a GPU takes the images."""
    if gpu.decode_device == "cpu":
        return _CPU_DECODER
    options = {**_GPU_DECODER, "hw_decoder_load": gpu.hw_decoder_load}
    if gpu.hw_decoder_load and gpu.largest is not None:  # without the hardware, nothing is held
        height, width = gpu.largest
        options |= {"preallocate_height_hint": height, "preallocate_width_hint": width}
    return options


def squares(
    source: Callable[[], tuple[list[Bytes], Crops]], decoder: dict[str, Any], *, on_gpu: bool
) -> Any:
    """The output of a pipeline, (size, size, 3) uint8 RGB for each image.

    `source` gives the JPEGs of the next batch, and how to cut them; `decoder` is of
    `decoder_options`.
    """
    dtypes, dims = (list(part) for part in zip(*_COLUMNS, strict=True))
    data, start, shape, roi_start, roi_end, size, interpolation, hflip, vflip = fn.external_source(
        lambda: _columns(*source()), num_outputs=len(dtypes), batch=True, dtype=dtypes, ndim=dims
    )
    images = fn.decoders.image_slice(
        data,
        start=start,
        shape=shape,
        axis_names="HW",
        output_type=types.RGB,
        adjust_orientation=False,
        **decoder,
    )
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


def _columns(encoded: list[Bytes], crops: Crops) -> tuple[Any, ...]:
    """A batch as the pipeline reads it, one entry for each image.

    The square cut out of the resized window becomes the region of the window that it shows, so
    DALI computes no pixel that is thrown away, and rounds neither size nor offset its own way.
    """
    window = crops.window
    scale = window[:, 2:] / crops.resize
    return (
        encoded,
        np.ascontiguousarray(window[:, :2]),
        np.ascontiguousarray(window[:, 2:]),
        (crops.offset * scale).astype(np.float32),
        ((crops.offset + crops.size) * scale).astype(np.float32),
        np.full((len(crops), 2), crops.size, np.float32),
        _FILTERS[crops.filter],
        crops.hflip.astype(np.int32),
        crops.vflip.astype(np.int32),
    )
