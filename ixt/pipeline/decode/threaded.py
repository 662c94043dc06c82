"""Decode on CPU threads, batch after batch; `windows`, `torch_images` or `pillow_images` does one.

No worker processes: what decodes an image releases the interpreter lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic

import torch
from torch import Tensor

from ixt.images.byte_ranges import ByteRange, Bytes, ReadAhead, Reading, read_bytes
from ixt.images.image import DamagedImage, read_image, unreadable
from ixt.pipeline.batch_memory import BatchMemory
from ixt.pipeline.decode.base import GREY, Decoded, OnError, R, stop_if_damaged
from ixt.pipeline.decode.thread_pool import ThreadPool
from ixt.pipeline.plan.crop import Crops

Squares = Callable[[ByteRange, Bytes, Sequence[Crops], int], list[Tensor]]
"""Where an image lies (for errors), its bytes, the cuts, its row of them -> its squares, each
(size, size, 3) uint8 RGB; raises DamagedImage."""


class ThreadDecoder:
    """A `Decoder` over a pool of threads."""

    def __init__(
        self,
        *,
        device: torch.device,
        num_threads: int,
        prefetch: int,
        on_error: OnError,
        squares: Squares,
    ) -> None:
        """Start the threads; the arguments are those of `make_decoder`.

        `squares` is what decodes a single image.
        """
        self.num_threads = num_threads
        self._squares = squares
        self._device = device
        self._prefetch = prefetch
        self._on_error = on_error
        self._pool = ThreadPool(num_threads, "decode")
        self._read_ahead = ReadAhead()
        self._memory = BatchMemory()

    def stream(self, requests: Iterable[R]) -> Iterator[Decoded[R]]:
        """Decode each request in order, up to `prefetch` of them ahead of the consumer."""
        started: deque[_Batch[R]] = deque()
        try:
            for request in requests:
                started.append(self._start(request))
                if len(started) > self._prefetch:
                    yield self._finish(started)
            while started:
                yield self._finish(started)
        finally:
            for batch in started:
                batch.cancel()

    def close(self) -> None:
        """End the threads."""
        self._pool.close()
        self._read_ahead.close()

    def _start(self, request: R) -> _Batch[R]:
        # Decoding threads read local files as fast as any; of a bucket they would each wait.
        remote = any(source.is_remote for source in request.ranges)
        reading = self._read_ahead.start(request.ranges, read_bytes) if remote else None
        memory = None if self._device.type == "cuda" else self._memory
        return _Batch(request, self._squares, reading, self._pool, memory=memory)

    def _finish(self, started: deque[_Batch[R]]) -> Decoded[R]:
        """Wait for the oldest batch; it stays in `started` until then, to be cancelled there."""
        batch = started[0]
        batch.wait()
        started.popleft()
        stop_if_damaged(batch.damaged, self._on_error)
        images, *also = (
            pixels.to(self._device, non_blocking=pixels.is_pinned()).permute(0, 3, 1, 2)
            for pixels in batch.pixels
        )
        return Decoded(batch.request, images, dict(sorted(batch.damaged.items())), tuple(also))


class _Batch(Generic[R]):
    """A request that is being decoded."""

    def __init__(
        self,
        request: R,
        squares: Squares,
        reading: Reading[Bytes] | None,
        pool: ThreadPool,
        *,
        memory: BatchMemory | None,
    ) -> None:
        self.request = request
        self._cuts = (request.crops, *request.also)
        shapes = [(len(request), crops.size, crops.size, 3) for crops in self._cuts]
        if memory is None:  # copied to a GPU without a wait: torch knows when it may be used again
            self.pixels = [torch.empty(s, dtype=torch.uint8, pin_memory=True) for s in shapes]
        else:
            self.pixels = [memory.empty(shape, torch.uint8) for shape in shapes]
        self.damaged: dict[int, str] = {}
        self._ranges = request.ranges
        self._squares = squares
        self._reading = reading
        self._work = pool.start(len(request), self._fill)

    def wait(self) -> None:
        """Wait until all images are decoded.

        Raises:
            DataError: an image is not what was indexed, or a bucket does not give it.
        """
        self._work.wait()

    def cancel(self) -> None:
        """Let the threads stop after the image that each has at hand."""
        self._work.cancel()
        if self._reading is not None:
            self._reading.cancel()

    def _fill(self, row: int) -> None:
        """Decode the image of a row; a damaged one is grey, and noted."""
        try:
            squares = self._squares(self._ranges[row], self._bytes(row), self._cuts, row)
        except DamagedImage as error:
            self.damaged[row] = str(error)
            for pixels in self.pixels:
                pixels[row] = GREY
            return
        for pixels, square in zip(self.pixels, squares, strict=True):
            pixels[row] = square

    def _bytes(self, row: int) -> Bytes:
        source = self._ranges[row]
        if self._reading is None:
            return read_image(source)
        try:
            return self._reading.row(row)
        except OSError as error:
            raise unreadable(source, error) from error
