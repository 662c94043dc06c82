"""Decode with NVIDIA DALI: on the GPU where the device is one, else with DALI's CPU operators.

The only module that imports DALI. Files of their own are read by DALI, whose threads open them in
parallel; parts of tars and of buckets are read ahead here and fed to it.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ixt.data.crop import BICUBIC, BILINEAR
from ixt.data.decode import (
    GREY,
    Decoded,
    OnError,
    Request,
    stop_if_damaged,
)
from ixt.data.decode_feed import Feed, are_files
from ixt.data.decode_torch import decode_image
from ixt.data.image import image_problem
from ixt.data.source import Bytes, ReadAhead

logger = logging.getLogger("ixt")

_Columns = tuple[NDArray[Any] | list[Bytes], ...]
_OnFailure = Callable[[Request, RuntimeError], Decoded]

_FILTERS = np.zeros(max(BILINEAR, BICUBIC) + 1, np.int32)
_FILTERS[BILINEAR] = int(types.INTERP_LINEAR)
_FILTERS[BICUBIC] = int(types.INTERP_CUBIC)

# dtype and dimensions per image of what `_columns` gives; first the path, or the encoded image.
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


class DaliDecoder:
    """The decoder of `ixt.data.decode.Decoder` over DALI pipelines, one for each stream."""

    def __init__(
        self, *, device: torch.device, num_threads: int, prefetch: int, on_error: OnError
    ) -> None:
        """Keep the settings; the arguments are those of `make_decoder`."""
        self._device = device
        self._num_threads = num_threads
        self._prefetch = prefetch
        self._on_error = on_error
        self._read_ahead = ReadAhead()
        self._warned = False

    def stream(self, requests: Iterable[Request]) -> Iterator[Decoded]:
        """Decode each request in order, up to `prefetch` of them ahead of the consumer."""
        counts: deque[int] = deque()
        feed = self._feed(_one_cut_each(requests, counts))
        try:
            decoded = self._decode(feed, self._decode_singly)
            for first in decoded:
                also = tuple(cut.images for cut in islice(decoded, counts.popleft() - 1))
                yield Decoded(first.images, first.damaged, also)
        finally:
            feed.cancel()

    def close(self) -> None:
        """End the reading threads; a pipeline goes with the stream that it serves."""
        self._read_ahead.close()

    def _feed(self, requests: Iterable[Request]) -> Feed:
        return Feed(requests, self._read_ahead, self._prefetch)

    def _decode(self, feed: Feed, on_failure: _OnFailure) -> Iterator[Decoded]:
        while (first := feed.restart()) is not None:
            error = yield from self._run_pipeline(feed, len(first), are_files(first))
            if error is not None:
                yield on_failure(feed.pop(), error)

    def _run_pipeline(
        self, feed: Feed, max_batch: int, files: bool
    ) -> Generator[Decoded, None, RuntimeError | None]:
        """Decode until the feed ends, a batch fails, or the next is larger or of another kind.

        Returns:
            the error of the batch that failed, if one did.
        """
        pipeline = self._build(lambda: _columns(*feed.take(max_batch, files)), max_batch, files)
        while True:
            try:
                images = self._run(pipeline)
            except StopIteration:
                return None
            except RuntimeError as error:
                # The traceback would keep this pipeline alive beside the next one.
                return error.with_traceback(None)
            feed.pop()
            yield Decoded(images, {})

    def _build(self, source: Callable[[], _Columns], max_batch: int, files: bool) -> Any:
        on_gpu = self._device.type == "cuda"
        pipeline = Pipeline(
            batch_size=max_batch,
            num_threads=self._num_threads,
            device_id=_cuda_index(self._device) if on_gpu else None,
            prefetch_queue_depth=self._prefetch + 1,
        )
        with pipeline:
            pipeline.set_outputs(_graph(source, _GPU_DECODER if on_gpu else _CPU_DECODER, files))
        pipeline.build()
        # Only this executor gives each batch memory of its own, to keep as long as needed.
        assert pipeline.exec_dynamic
        return pipeline

    def _run(self, pipeline: Any) -> Tensor:
        """The next batch, (n, 3, size, size) uint8, in DALI's memory.

        Raises:
            RuntimeError: an image of the batch cannot be decoded.
            StopIteration: the source is at its end.
        """
        on_gpu = self._device.type == "cuda"
        (batch,) = pipeline.run(torch.cuda.current_stream(self._device) if on_gpu else None)
        return from_dlpack(batch.as_tensor()).permute(0, 3, 1, 2)

    def _decode_singly(self, request: Request, error: RuntimeError) -> Decoded:
        """Decode a batch that failed image by image, which changes no pixel of the sound ones.

        Raises:
            DataError: there are damaged images and on_error is stop, or one has changed.
            RuntimeError: the given error, where no image accounts for it.
        """
        problems = [image_problem(source) for source in request.ranges]
        damaged = {row: text for row, text in enumerate(problems) if text is not None}
        stop_if_damaged(damaged, self._on_error)
        foreign: list[str] = []

        def decode_foreign(single: Request, _: RuntimeError) -> Decoded:
            """Decode what Pillow reads and DALI does not, such as a GIF."""
            foreign.append(single.ranges[0].name)
            pixels = decode_image(single.ranges[0], single.crops, 0).to(self._device)
            return Decoded(pixels.permute(2, 0, 1)[None], {})

        size = request.crops.size
        shape = (len(request), size, size, 3)
        pixels = torch.full(shape, GREY, dtype=torch.uint8, device=self._device)
        images = pixels.permute(0, 3, 1, 2)
        sound = [row for row in range(len(images)) if row not in damaged]
        singles = self._feed(_single(request, row) for row in sound)
        for row, one in zip(sound, self._decode(singles, decode_foreign), strict=True):
            images[row] = one.images[0]
        if not damaged and not foreign:
            raise error
        self._warn_once(foreign)
        return Decoded(images, damaged)

    def _warn_once(self, foreign: list[str]) -> None:
        if foreign and not self._warned:
            self._warned = True
            logger.warning(
                "%s: DALI cannot decode it, so the CPU does; each such file slows its batch down, "
                "better convert them to JPEG",
                foreign[0],
            )


def _one_cut_each(requests: Iterable[Request], counts: deque[int]) -> Iterator[Request]:
    """A request for each cut; how many belong together goes into `counts`.

    A file is decoded once for each of them: a graph with several outputs would have to be built
    anew for each number of cuts.
    """
    for request in requests:
        counts.append(1 + len(request.also))
        for crops in (request.crops, *request.also):
            yield Request(request.ranges, crops)


def _graph(source: Callable[[], _Columns], decoder: dict[str, Any], files: bool) -> Any:
    """The pipeline: read, decode the window, resize the part of it that is kept, flip."""
    first, start, shape, roi_start, roi_end, size, interpolation, hflip, vflip = fn.external_source(
        source, num_outputs=len(_COLUMN_DTYPES), batch=True, dtype=_COLUMN_DTYPES, ndim=_COLUMN_DIMS
    )
    images = fn.decoders.image_slice(
        # Mapped files fault page by page where they lie on a network file system.
        fn.io.file.read(first, dont_use_mmap=True) if files else first,
        start=start,
        shape=shape,
        axis_names="HW",
        output_type=types.RGB,
        adjust_orientation=False,
        **decoder,
    )
    images = fn.resize(
        images,
        size=size,
        roi_start=roi_start,
        roi_end=roi_end,
        antialias=True,
        interp_type=fn.reinterpret(interpolation, dtype=types.INTERP_TYPE),
    )
    return fn.flip(images, horizontal=hflip, vertical=vflip)


def _names(request: Request) -> NDArray[np.uint8]:
    """The paths of a request, padded with NUL, where opening a file ends its name."""
    names = np.array([os.fsencode(source.path) for source in request.ranges])
    return np.ascontiguousarray(names.view(np.uint8).reshape(len(names), -1))


def _columns(request: Request, encoded: list[Bytes] | None) -> _Columns:
    """What `_graph` reads for each image, one array per column: first the bytes, or the path.

    The square cut out of the resized window becomes the region of the window that it shows, so
    DALI computes no pixel that is thrown away, and rounds neither size nor offset its own way.
    """
    crops = request.crops
    scale = crops.window[:, 2:] / crops.resize
    numbers = (
        crops.window[:, :2],
        crops.window[:, 2:],
        (crops.offset * scale).astype(np.float32),
        ((crops.offset + crops.size) * scale).astype(np.float32),
        np.full((len(request), 2), crops.size, np.float32),
        _FILTERS[crops.filter],
        crops.hflip.astype(np.int32),
        crops.vflip.astype(np.int32),
    )
    first = _names(request) if encoded is None else encoded
    return (first, *(np.ascontiguousarray(column) for column in numbers))


def _single(request: Request, row: int) -> Request:
    """A request for one image of another."""
    crops, one = request.crops, slice(row, row + 1)
    return Request(
        ranges=request.ranges[one],
        crops=replace(
            crops,
            window=crops.window[one],
            resize=crops.resize[one],
            offset=crops.offset[one],
            filter=crops.filter[one],
            hflip=crops.hflip[one],
            vflip=crops.vflip[one],
        ),
    )


def _cuda_index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
