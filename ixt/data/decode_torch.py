"""Decode on CPU threads: JPEGs in C or by torchvision, torch's antialiased uint8 resize.

No worker processes: the operators release the interpreter lock, so threads suffice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ixt.data.crop import BICUBIC, BILINEAR, Crops
from ixt.data.decode import (
    GREY,
    Decoded,
    OnError,
    Request,
    outdated,
    stop_if_damaged,
)
from ixt.data.image import DamagedImage, decode_with_pillow, read_image, unreadable
from ixt.data.native.jpeg import decode_window
from ixt.data.source import ByteRange, Bytes, ReadAhead, Reading

_JPEG_START = b"\xff\xd8"
_LIBRARIES = ("image_stable.so", "image.so")  # from torchvision 0.29 on, and before
_RGB = 3  # torchvision.io.ImageReadMode.RGB
_MODES = {BILINEAR: "bilinear", BICUBIC: "bicubic"}


@dataclass(frozen=True)
class Codec:
    """How a single image is decoded, and how a square is cut out of it; both release the lock."""

    decode: Callable[[ByteRange, Bytes], Any]
    """Where the image lies (for errors) and its bytes -> the image; raises DamagedImage."""
    cut: Callable[[Any, str, Crops, int], Tensor]
    """The image, its name, the crops, its row of them -> (size, size, 3) uint8 RGB."""
    decode_and_cut: Callable[[Bytes, Crops, int], Tensor | None] | None = None
    """Both at once, with the same result, where that is faster; None where it is not possible."""


class TorchDecoder:
    """The decoder of `ixt.data.decode.Decoder` over a pool of threads."""

    def __init__(
        self,
        *,
        device: torch.device,
        num_threads: int,
        prefetch: int,
        on_error: OnError,
        codec: Codec | None = None,
    ) -> None:
        """Start the threads; the arguments are those of `make_decoder`.

        Args:
            device: where the images are wanted.
            num_threads: threads that decode.
            prefetch: batches decoded ahead.
            on_error: stop or skip.
            codec: what decodes a single image; torch's operators if not given.
        """
        self._codec = codec or TORCH
        _register_decode_jpeg()
        self._device = device
        self._num_threads = num_threads
        self._prefetch = prefetch
        self._on_error = on_error
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
        _use_one_torch_thread_each(self._pool, num_threads)
        self._read_ahead = ReadAhead()

    def stream(self, requests: Iterable[Request]) -> Iterator[Decoded]:
        """Decode each request in order, up to `prefetch` of them ahead of the consumer."""
        started: deque[_Batch] = deque()
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
        self._pool.shutdown(cancel_futures=True)
        self._read_ahead.close()

    def _start(self, request: Request) -> _Batch:
        # Decoding threads read local files as fast as any; of a bucket they would each wait.
        remote = any(source.is_remote for source in request.ranges)
        reading = self._read_ahead.start(request.ranges) if remote else None
        batch = _Batch(request, self._codec, reading, pinned=self._device.type == "cuda")
        # Every thread works on the batch, so the next one starts only when this one has no rows
        # left: batches are completed in order and no thread waits for another in between.
        batch.jobs = [self._pool.submit(batch.work) for _ in range(self._num_threads)]
        return batch

    def _finish(self, started: deque[_Batch]) -> Decoded:
        """Wait for the oldest batch; it stays in `started` until then, to be cancelled there."""
        batch = started[0]
        for job in batch.jobs:
            job.result()
        started.popleft()
        stop_if_damaged(batch.damaged, self._on_error)
        images, *also = (
            pixels.to(self._device, non_blocking=pixels.is_pinned()).permute(0, 3, 1, 2)
            for pixels in batch.pixels
        )
        return Decoded(images, dict(sorted(batch.damaged.items())), tuple(also))


class _Batch:
    """A request in the works: threads take its rows in turn and fill them."""

    def __init__(
        self, request: Request, codec: Codec, reading: Reading | None, *, pinned: bool
    ) -> None:
        self.request = request
        self.cuts = (request.crops, *request.also)
        self.pixels = [
            torch.empty(
                (len(request), crops.size, crops.size, 3),
                dtype=torch.uint8,
                pin_memory=pinned,
            )
            for crops in self.cuts
        ]
        self.damaged: dict[int, str] = {}
        self.jobs: list[Future[None]] = []
        self._codec = codec
        self._reading = reading
        self._rows = deque(range(len(request)))

    def work(self) -> None:
        while True:
            try:
                row = self._rows.popleft()
            except IndexError:
                return
            try:
                self._fill(row)
            except DamagedImage as error:
                self.damaged[row] = str(error)
                for pixels in self.pixels:
                    pixels[row] = GREY

    def cancel(self) -> None:
        """Let the threads stop after the image that each has at hand."""
        self._rows.clear()
        if self._reading is not None:
            self._reading.cancel()

    def _bytes(self, row: int) -> Bytes:
        source = self.request.ranges[row]
        if self._reading is None:
            return read_image(source)
        try:
            return self._reading.row(row)
        except OSError as error:
            raise unreadable(source, error) from error

    def _fill(self, row: int) -> None:
        source, data = self.request.ranges[row], self._bytes(row)
        if self._codec.decode_and_cut is not None and len(self.cuts) == 1:
            square = self._codec.decode_and_cut(data, self.cuts[0], row)
            if square is not None:
                self.pixels[0][row] = square
                return
        image = self._codec.decode(source, data)
        for crops, pixels in zip(self.cuts, self.pixels, strict=True):
            pixels[row] = self._codec.cut(image, source.name, crops, row)


def decode_image(source: ByteRange, crops: Crops, row: int, data: Bytes | None = None) -> Tensor:
    """Decode one image and cut, resize and flip it.

    Args:
        source: where it lies.
        crops: the plan.
        row: the image's row of it.
        data: its bytes, where they are read already.

    Returns:
        (size, size, 3) uint8 RGB.

    Raises:
        DamagedImage: the file cannot be decoded.
        DataError: the window does not lie inside the image.
    """
    _register_decode_jpeg()
    image = _pixels(source, read_image(source) if data is None else data)
    return _cut(image, source.name, crops, row)


def _cut(pixels: Tensor, name: str, crops: Crops, row: int) -> Tensor:
    """A square of a decoded image: see `decode_image`."""
    top, left, height, width = crops.window[row].tolist()
    if not (0 < height <= pixels.shape[0] - top and 0 < width <= pixels.shape[1] - left):
        raise outdated(name, crops, row, pixels.shape[0], pixels.shape[1])
    # Contiguous, torch resizes interleaved pixels at twice the speed, with the same result.
    return _resize(pixels[top : top + height, left : left + width].contiguous(), crops, row)


def _decode_and_cut(data: Bytes, crops: Crops, row: int) -> Tensor | None:
    """As `_pixels` and `_cut`, without the pixels around the window; None where it takes them."""
    window = decode_window(data, *crops.window[row].tolist())
    return None if window is None else _resize(window, crops, row)


def _resize(window: Tensor, crops: Crops, row: int) -> Tensor:
    """Resize a contiguous window, cut the square out of it and flip it."""
    resized = interpolate(
        # With a batch dimension in front: without it, torch takes the slower way.
        window[None].permute(0, 3, 1, 2),
        crops.resize[row].tolist(),
        mode=_MODES[int(crops.filter[row])],
        antialias=True,
    )
    down, right = crops.offset[row].tolist()
    square = resized[0].permute(1, 2, 0)[down : down + crops.size, right : right + crops.size]
    flips = [axis for axis, flip in enumerate((crops.vflip[row], crops.hflip[row])) if flip]
    return square.flip(flips) if flips else square


def _pixels(source: ByteRange, data: Bytes) -> Tensor:
    """(H, W, 3) uint8 RGB of the stored image, identical with Pillow's convert("RGB").

    Raises:
        DamagedImage: the bytes cannot be decoded.
    """
    if data[:2].tobytes() == _JPEG_START:
        try:
            # The operator, because its wrapper decode_jpeg warns on each call since
            # torchvision 0.29 that TorchCodec is to replace it.
            pixels: Tensor = torch.ops.image.decode_jpeg(torch.from_numpy(data), _RGB, False)
            return pixels.permute(1, 2, 0)
        except RuntimeError:
            pass  # Pillow reads it all the same, or says what is wrong
    return torch.from_numpy(np.array(decode_with_pillow(source, data)))


@cache
def _register_decode_jpeg() -> None:
    """Make torch.ops.image.decode_jpeg known.

    By torchvision's library alone, where it lies where the wheels have it: to import torchvision
    takes two seconds, for models and torch._dynamo behind them.
    """
    found = find_spec("torchvision")
    folders = [] if found is None else list(found.submodule_search_locations or [])
    candidates = (Path(folder, name) for folder in folders for name in _LIBRARIES)
    library = next((path for path in candidates if path.is_file()), None)
    if library is not None:
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    else:
        import_module("torchvision.io")


TORCH = Codec(_pixels, _cut, _decode_and_cut)
"""libjpeg-turbo's pixels, by C code of which only a crop's window is decoded, or by torchvision;
torch's antialiased resize; Pillow for what is no JPEG."""


def _use_one_torch_thread_each(pool: ThreadPoolExecutor, num_threads: int) -> None:
    """Keep torch from splitting single operators among further threads in the pool's threads.

    Setting the number also sets what threads started later, and MKL, take; that is put back.
    """
    before = torch.get_num_threads()
    barrier = Barrier(num_threads)

    def use_one() -> None:
        # Asking first: a thread's first use would overwrite the number with the common one.
        torch.get_num_threads()
        torch.set_num_threads(1)
        barrier.wait()

    for job in [pool.submit(use_one) for _ in range(num_threads)]:
        job.result()
    torch.set_num_threads(before)
