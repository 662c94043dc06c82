"""Windows of JPEGs decoded by nvImageCodec, the codec library of NVIDIA DALI, on a CPU.

Its libjpeg-turbo stops behind a window's last row and converts no colour outside of it. The pixels
are those of decoding the whole image, bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nvidia import nvimgcodec
from torch import Tensor

from ixt.images.byte_ranges import ByteRange, Bytes
from ixt.images.jpeg import Frame, find_frame, whole_frame
from ixt.pipeline.decode.torch_images import check_window, resize_window, torch_squares
from ixt.pipeline.plan.crop import Crops

_of_thread = threading.local()
_AS_STORED = nvimgcodec.DecodeParams(
    allow_any_depth=False, color_spec=nvimgcodec.ColorSpec.SRGB, apply_exif_orientation=False
)


def window_squares(source: ByteRange, data: Bytes, cuts: Sequence[Crops], row: int) -> list[Tensor]:
    """What `torch_squares` gives, decoding no more of an ordinary JPEG than the cuts take.

    A file that is not whole, or of another kind, is left to `torch_squares`: whether an image is
    damaged must not depend on how much of it is decoded.
    """
    frame = find_frame(data.data)
    windows = np.stack([crops.window[row] for crops in cuts])
    top, left = windows[:, :2].min(0).tolist()
    bottom, right = (windows[:, :2] + windows[:, 2:]).max(0).tolist()
    if frame is None or not _pays(frame, bottom, right - left) or whole_frame(data) is None:
        return torch_squares(source, data, cuts, row)
    for crops in cuts:
        check_window(frame.height, frame.width, source.name, crops, row)
    part = _decode(data, top, left, bottom, right)
    if part is None:
        return torch_squares(source, data, cuts, row)
    return [resize_window(part, crops, row, top, left) for crops in cuts]


def _pays(frame: Frame, bottom: int, columns: int) -> bool:
    """Whether a window spares more work than looking over the file and a further decoder cost.

    Of a JPEG's decoding, some 0.6 read the entropy-coded data down to the window's last row, and
    0.4 compute its pixels; the extra cost is a tenth of decoding a photograph as a whole.
    """
    return bottom * (0.6 * frame.width + 0.4 * columns) < 0.9 * frame.height * frame.width


def _decode(data: Bytes, top: int, left: int, bottom: int, right: int) -> Tensor | None:
    """(height, width, 3) uint8 RGB of a part of a JPEG; None where nvImageCodec gives it up."""
    region = nvimgcodec.Region(top, left, bottom, right)
    stream = nvimgcodec.CodeStream(data).get_sub_code_stream(region=region)
    image = _decoder().decode(stream, params=_AS_STORED)
    return None if image is None else torch.from_numpy(np.asarray(image.cpu()))


def _decoder() -> Any:
    """The decoder of this thread."""
    if not hasattr(_of_thread, "decoder"):
        _of_thread.decoder = nvimgcodec.Decoder(
            device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
            backends=[nvimgcodec.Backend(nvimgcodec.CPU_ONLY)],
            max_num_cpu_threads=1,
        )
    return _of_thread.decoder
