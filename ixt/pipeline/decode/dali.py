"""Decode with NVIDIA DALI for a GPU: it decodes, resizes and flips ordinary JPEGs.

Images of other kinds, and JPEGs that are not whole, are decoded on the CPU as the torch decoder
does, so whether an image is damaged does not depend on the decoder. `dali_graph`, `windows` and
this are the only modules that import NVIDIA's packages.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from nvidia.dali import Pipeline
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ixt.images.byte_ranges import Bytes, ReadAhead
from ixt.images.image import DamagedImage
from ixt.pipeline.decode.base import GREY, Decoded, GpuDecoding, OnError, R, stop_if_damaged
from ixt.pipeline.decode.dali_graph import decoder_options, squares
from ixt.pipeline.decode.feed import Cut, Feed
from ixt.pipeline.decode.torch_images import torch_squares
from ixt.pipeline.plan.crop import Crops

logger = logging.getLogger("ixt")

Source = Callable[[], tuple[list[Bytes], Crops]]


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
    ) -> None:
        """Prepare the decoder; the arguments are those of `make_decoder`.

        On a CPU, DALI's CPU operators compute what those of a GPU would, which is slow and good for
        tests.
        """
        self._on_gpu = device.type == "cuda"
        self._options = decoder_options(gpu) if self._on_gpu else {"device": "cpu"}
        self._device = device
        self.num_threads = num_threads
        self._prefetch = prefetch
        self._on_error = on_error
        self._read_ahead = ReadAhead()
        self._warned = False

    def stream(self, requests: Iterable[R]) -> Iterator[Decoded[R]]:
        """Decode each request in order, up to `prefetch` of them ahead of the consumer."""
        feed = Feed(requests, self._read_ahead, self._prefetch)
        decoded = self._decode(feed)
        try:
            for cut, images, damaged in decoded:
                also = tuple(more for _, more, _ in islice(decoded, len(cut.request.also)))
                yield Decoded(cut.request, images, damaged, also)
        finally:
            feed.cancel()
            decoded.close()
            _return_heaps()

    def close(self) -> None:
        """End the reading threads; a pipeline goes with the stream that it serves."""
        self._read_ahead.close()

    def _decode(
        self, feed: Feed[R]
    ) -> Generator[tuple[Cut[R], Tensor, dict[int, str]], None, None]:
        """Each cut with its pixels and its damaged images.

        A pipeline ends where the feed does, where a batch fails, or where the next one is larger.
        """
        while max_batch := feed.restart():
            pipeline = self._build(lambda size=max_batch: feed.take(size), max_batch)  # type: ignore[misc]
            while True:
                try:
                    images = self._run(pipeline)
                except StopIteration:
                    break
                except RuntimeError as error:
                    # The traceback would keep this pipeline alive beside the next one.
                    failure, cut = error.with_traceback(None), feed.pop()
                    del pipeline
                    images = self._decode_singly(cut, failure)
                    yield cut, images, self._add_others(cut, images)
                    break
                cut = feed.pop()
                yield cut, images, self._add_others(cut, images)

    def _build(self, source: Source, max_batch: int) -> Any:
        index = self._device.index
        if self._on_gpu and index is None:
            index = torch.cuda.current_device()
        pipeline = Pipeline(
            batch_size=max_batch,
            num_threads=self.num_threads,
            device_id=index if self._on_gpu else None,
            prefetch_queue_depth=self._prefetch + 1,  # the consumer holds one
        )
        with pipeline:
            pipeline.set_outputs(squares(source, self._options, on_gpu=self._on_gpu))
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
        stream = torch.cuda.current_stream(self._device) if self._on_gpu else None
        (batch,) = pipeline.run(stream)
        return from_dlpack(batch.as_tensor()).permute(0, 3, 1, 2)

    def _decode_singly(self, cut: Cut[R], error: RuntimeError) -> Tensor:
        """Decode a batch that failed image by image, which changes no pixel of the sound ones.

        Those that fail alone, too, are added to the cut's others.

        Raises:
            RuntimeError: the given error, where no image accounts for it.
        """
        size, known = cut.crops.size, len(cut.others)
        shape = (len(cut), size, size, 3)
        images = torch.empty(shape, dtype=torch.uint8, device=self._device).permute(0, 3, 1, 2)
        for row in range(len(cut)):
            if row in cut.others:
                continue
            found = cut.reading.row(row)
            assert not isinstance(found, DamagedImage)
            one = ([found[0]], cut.crops.take(slice(row, row + 1)))
            try:
                images[row] = self._run(self._build(lambda one=one: one, 1))[0]  # type: ignore[misc]
            except RuntimeError:
                cut.others[row] = found[0]
        if len(cut.others) == known:
            raise error
        return images

    def _add_others(self, cut: Cut[R], images: Tensor) -> dict[int, str]:
        """Put the images that DALI did not get in their places; grey where one is damaged.

        Returns:
            why the image of a row was left out.

        Raises:
            DataError: there are damaged images and on_error is stop.
        """
        damaged: dict[int, str] = {}
        for row, found in sorted(cut.others.items()):
            source = cut.request.ranges[row]
            try:
                if isinstance(found, DamagedImage):
                    raise found
                (square,) = torch_squares(source, found, (cut.crops,), row)
            except DamagedImage as error:
                damaged[row] = str(error)
                images[row] = GREY
            else:
                self._warn_once(source.name)
                images[row] = square.permute(2, 0, 1).to(self._device)
        stop_if_damaged(damaged, self._on_error)
        return damaged

    def _warn_once(self, name: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s: is not an ordinary JPEG, so the CPU decodes it; such files slow their "
                "batches down, so convert them to ordinary JPEGs",
                name,
            )


def _return_heaps() -> None:
    """Return memory to the system that the C library keeps for the threads of a pipeline.

    Each epoch's pipeline has threads of its own: without this, a process grows by some 40 MiB an
    epoch for its first ten. It takes 30 ms.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU C library's
    if trim is not None:
        trim(0)
