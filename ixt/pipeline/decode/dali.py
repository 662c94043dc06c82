"""Decode with NVIDIA DALI, for a GPU or on a CPU.

For a GPU, DALI decodes, resizes and flips. On a CPU it decodes the windows, and torch resizes and
flips them: its resampler, in integers, takes a seventh of the time of DALI's, and the pixels are
those of the torch decoder.

`dali_graph` and this are the only modules that import DALI. Files of their own are read by DALI,
whose threads open them in parallel; parts of tars and of buckets are read ahead here and fed to it.
"""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from nvidia.dali import Pipeline
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ixt.images.byte_ranges import ReadAhead
from ixt.images.image import image_problem, read_image
from ixt.pipeline.decode.base import GREY, Decoded, GpuDecoding, OnError, Request, stop_if_damaged
from ixt.pipeline.decode.dali_graph import WINDOWS, Columns, Graph, decoder_options, squares_graph
from ixt.pipeline.decode.feed import Feed, are_files
from ixt.pipeline.decode.thread_pool import Crew
from ixt.pipeline.decode.torch_images import resize_window, torch_squares
from ixt.pipeline.plan.crop import Crops

logger = logging.getLogger("ixt")

_OnFailure = Callable[[Request, RuntimeError], Decoded]


class DaliDecoder:
    """A `Decoder` over DALI pipelines, one for each stream."""

    def __init__(
        self,
        *,
        device: torch.device,
        num_threads: int,
        prefetch: int,
        on_error: OnError,
        gpu: GpuDecoding,
        graph: Graph | None = None,
    ) -> None:
        """Start the threads that resize; the first arguments are those of `make_decoder`.

        Args:
            device: where the images are wanted.
            num_threads: threads that decode.
            prefetch: batches decoded ahead.
            on_error: stop or skip.
            gpu: how to decode for a CUDA device.
            graph: what DALI computes; if not given, what is fastest for the device.
        """
        on_gpu = device.type == "cuda"
        if graph is None:
            graph = squares_graph(decoder_options(gpu), on_gpu=True) if on_gpu else WINDOWS
        self._graph = graph
        self._crew = None if graph.cuts else Crew(num_threads, "resize")
        self._device = device
        self.num_threads = num_threads
        self._prefetch = prefetch
        self._on_error = on_error
        self._read_ahead = ReadAhead()
        self._warned = False

    def stream(self, requests: Iterable[Request]) -> Iterator[Decoded]:
        """Decode each request in order, up to `prefetch` of them ahead of the consumer."""
        counts: deque[int] = deque()
        feed = self._feed(_one_cut_each(requests, counts))
        decoded = self._decode(feed, self._decode_singly)
        try:
            for first in decoded:
                also = tuple(cut.images for cut in islice(decoded, counts.popleft() - 1))
                yield Decoded(first.images, first.damaged, also)
        finally:
            feed.cancel()
            decoded.close()
            _return_heaps()

    def close(self) -> None:
        """End the threads of this decoder's own; a pipeline goes with the stream that it serves."""
        self._read_ahead.close()
        if self._crew is not None:
            self._crew.close()

    def _feed(self, requests: Iterable[Request]) -> Feed:
        return Feed(requests, self._read_ahead, self._prefetch)

    def _decode(self, feed: Feed, on_failure: _OnFailure) -> Generator[Decoded, None, None]:
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

        def columns() -> Columns:
            return self._graph.columns(*feed.take(max_batch, files))

        pipeline = self._build(columns, max_batch, files)
        while True:
            try:
                output = self._run(pipeline)
            except StopIteration:
                return None
            except RuntimeError as error:
                # The traceback would keep this pipeline alive beside the next one.
                return error.with_traceback(None)
            yield Decoded(self._images(output, feed.pop().crops), {})

    def _build(self, source: Callable[[], Columns], max_batch: int, files: bool) -> Any:
        on_gpu = self._device.type == "cuda"
        pipeline = Pipeline(
            batch_size=max_batch,
            num_threads=self.num_threads,
            device_id=_cuda_index(self._device) if on_gpu else None,
            # The consumer holds a batch of squares; of windows, none is left by then.
            prefetch_queue_depth=self._prefetch + self._graph.cuts,
        )
        with pipeline:
            pipeline.set_outputs(self._graph.output(source, files))
        pipeline.build()
        # Only this executor gives each batch memory of its own, to keep as long as needed.
        assert pipeline.exec_dynamic
        return pipeline

    def _run(self, pipeline: Any) -> Any:
        """DALI's output for the next batch.

        Raises:
            RuntimeError: an image of the batch cannot be decoded.
            StopIteration: the source is at its end.
        """
        on_gpu = self._device.type == "cuda"
        (batch,) = pipeline.run(torch.cuda.current_stream(self._device) if on_gpu else None)
        return batch

    def _images(self, output: Any, crops: Crops) -> Tensor:
        """A batch, (n, 3, size, size) uint8: in DALI's memory, unless the windows are to be cut."""
        if self._crew is None:
            return from_dlpack(output.as_tensor()).permute(0, 3, 1, 2)
        squares = torch.empty((len(crops), crops.size, crops.size, 3), dtype=torch.uint8)

        def fill(row: int) -> None:
            squares[row] = resize_window(from_dlpack(output[row]), crops, row)

        self._crew.start(len(crops), fill).wait()
        return squares.permute(0, 3, 1, 2)

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
            (source,) = single.ranges
            foreign.append(source.name)
            (pixels,) = torch_squares(source, read_image(source), (single.crops,), 0)
            return Decoded(pixels.permute(2, 0, 1)[None].to(self._device), {})

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


def _return_heaps() -> None:
    """Give back what the C library keeps of the heaps of a pipeline's threads.

    Each epoch's pipeline has threads of its own: without this, a process grows by some 40 MiB an
    epoch for its first ten. It takes 30 ms.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU C library's
    if trim is not None:
        trim(0)


def _cuda_index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
