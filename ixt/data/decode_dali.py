"""Decode with NVIDIA DALI: on the GPU where the device is one, else with DALI's CPU operators.

The only module that imports DALI.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types
from torch import Tensor

from ixt.data.crop import BICUBIC, BILINEAR, Crops
from ixt.data.decode import (
    GREY,
    DamagedImage,
    Decoded,
    OnError,
    Request,
    image_problem,
    stop_if_damaged,
)
from ixt.data.decode_torch import decode_image

_Columns = tuple[NDArray[Any], ...]

_FILTERS = np.zeros(max(BILINEAR, BICUBIC) + 1, np.int32)
_FILTERS[BILINEAR] = int(types.INTERP_LINEAR)
_FILTERS[BICUBIC] = int(types.INTERP_CUBIC)

# dtype and dimensions per image of what `_columns` gives.
_COLUMN_DTYPES = [types.UINT8] + 2 * [types.INT32] + 3 * [types.FLOAT] + 3 * [types.INT32]
_COLUMN_DIMS = [1, 1, 1, 1, 1, 1, 0, 0, 0]

# On a GPU: all images through nvJPEG's CUDA decoder. With the hardware decoder taking a share,
# an image's pixels would depend on the others in its batch. Without fancy upsampling, nvJPEG
# enlarges the chroma by nearest neighbour, unlike libjpeg-turbo on which published weights were
# trained.
_GPU_DECODER = {
    "device": "mixed",
    "hw_decoder_load": 0.0,
    "jpeg_fancy_upsampling": True,
    "affine": False,
}
_CPU_DECODER = {"device": "cpu"}


class _Pipeline(Protocol):
    """What is used of nvidia.dali.Pipeline, which comes without type hints."""

    def run(self, cuda_stream: torch.cuda.Stream | None, /) -> tuple[Any]: ...


class DaliDecoder:
    """The decoder of `ixt.data.decode.Decoder` over DALI pipelines, one per stream."""

    def __init__(
        self, *, device: torch.device, num_threads: int, prefetch: int, on_error: OnError
    ) -> None:
        """Keep the settings; the arguments are those of `make_decoder`."""
        self._device = device
        self._num_threads = num_threads
        self._prefetch = prefetch
        self._on_error = on_error

    def stream(self, requests: Iterable[Request]) -> Iterator[Decoded]:
        """Decode each request in order, up to `prefetch` of them ahead of the consumer."""
        feed = _Feed(requests)
        while feed.peek() is not None:
            yield from self._run_pipeline(feed)

    def close(self) -> None:
        """Do nothing: a pipeline goes with the stream that it serves."""

    def _run_pipeline(self, feed: _Feed) -> Iterator[Decoded]:
        """Decode until the requests end, one does not fit the pipeline, or one fails."""
        first = feed.peek()
        assert first is not None
        largest = len(first.paths)
        pipeline = self._build(lambda: feed.take(largest), largest, self._prefetch + 1)
        while True:
            try:
                images = self._run(pipeline)
            except StopIteration:
                return
            except RuntimeError as error:
                # A pipeline that failed is invalid by DALI's word. The requests behind the failed
                # one go to the next pipeline.
                feed.raise_own_error()
                request = feed.taken.popleft()
                feed.rewind()
                del pipeline
                yield self._decode_singly(request, error)
                return
            feed.taken.popleft()
            yield Decoded(images, {})

    def _decode_singly(self, request: Request, error: RuntimeError) -> Decoded:
        """Decode a batch that failed image by image, which changes no pixel of the sound ones.

        Raises:
            DataError: there are damaged images and on_error is stop.
            RuntimeError: the given error, where no image accounts for it.
        """
        problems = [image_problem(path) for path in request.paths]
        damaged = {row: text for row, text in enumerate(problems) if text is not None}
        stop_if_damaged(damaged, self._on_error)
        size = request.crops.size
        shape = (len(request.paths), size, size, 3)
        pixels = torch.full(shape, GREY, dtype=torch.uint8, device=self._device)
        row = 0
        pipeline = self._build(lambda: _columns(request, slice(row, row + 1)), 1, 1)
        explained = bool(damaged)
        for row in set(range(len(pixels))) - damaged.keys():
            try:
                pixels[row] = self._run(pipeline)[0].permute(1, 2, 0)
            except RuntimeError:
                # Sound for Pillow, but nothing DALI reads, such as a GIF.
                pixels[row] = decode_image(request.paths[row], request.crops, row)
                explained = True
        if not explained:
            raise error
        return Decoded(pixels.permute(0, 3, 1, 2), damaged)
