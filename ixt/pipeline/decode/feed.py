"""What a pipeline of DALI's reads from: one cut of a request after another, and their bytes.

A pipeline holds several cuts in flight. Those that a failed one did not deliver go to the next.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Generic

import numpy as np
from PIL import Image

from ixt.errors import DataError
from ixt.images.byte_ranges import ByteRange, Bytes, ReadAhead, Reading
from ixt.images.image import DamagedImage, read_image
from ixt.images.jpeg import Frame, whole_frame
from ixt.pipeline.decode.base import R
from ixt.pipeline.decode.torch_images import check_window
from ixt.pipeline.plan.crop import Crops

_SIDE = 8

Found = tuple[Bytes, Frame | None] | DamagedImage
"""An image's bytes, and its frame if it is an ordinary whole JPEG; or why it is not readable."""


@dataclass
class Cut(Generic[R]):
    """One of a request's cuts: a batch for DALI."""

    request: R
    crops: Crops
    reading: Reading[Found]
    others: dict[int, Bytes | DamagedImage] = field(default_factory=dict)
    """Rows that DALI does not get: images of another kind, or not whole, and unreadable ones."""

    def __len__(self) -> int:
        return len(self.request)


class Feed(Generic[R]):
    """Hands cuts to pipelines and remembers those whose batch has not come out yet."""

    def __init__(self, requests: Iterable[R], read_ahead: ReadAhead, num_ahead: int) -> None:
        self._requests = iter(requests)
        self._read_ahead = read_ahead
        self._num_ahead = num_ahead
        self._waiting: deque[Cut[R]] = deque()
        self._taken: deque[Cut[R]] = deque()
        self._error: Exception | None = None

    def restart(self) -> int:
        """Reclaim what the last pipeline did not deliver; images of the next cut, 0 at the end.

        Raises:
            Exception: what the requests raised, once all before it are decoded.
        """
        self._waiting.extendleft(reversed(self._taken))
        self._taken.clear()
        if not self._waiting:
            self._pull()
        if not self._waiting and self._error is not None:
            raise self._error
        return len(self._waiting[0]) if self._waiting else 0

    def take(self, max_batch: int) -> tuple[list[Bytes], Crops]:
        """Hand out the encoded images of the next cut, and how to cut each.

        `max_batch` images are the most that the pipeline takes.

        Raises:
            StopIteration: the cuts are at an end, or the next one does not suit the pipeline.
        """
        # Batches are read while those before them are decoded.
        while len(self._waiting) <= self._num_ahead and self._pull():
            pass
        if not self._waiting or len(self._waiting[0]) > max_batch:
            raise StopIteration
        try:
            encoded = _encoded(self._waiting[0])
        except DataError as error:  # not to be taken for an error of DALI's, either
            self.cancel()
            self._error = error
            raise StopIteration from error
        self._taken.append(self._waiting.popleft())
        return encoded

    def pop(self) -> Cut[R]:
        """Take out the oldest cut handed out: its batch has been decoded, or has failed."""
        return self._taken.popleft()

    def cancel(self) -> None:
        """Forget the cuts that no pipeline has taken."""
        for cut in self._waiting:
            cut.reading.cancel()
        self._waiting.clear()

    def _pull(self) -> bool:
        """Begin to read the next request; False where there is none."""
        if self._error is not None:
            return False
        try:
            request = next(self._requests)
        except StopIteration:
            return False
        except Exception as error:  # raised later, not to be taken for an error of DALI's
            self._error = error
            return False
        reading = self._read_ahead.start(request.ranges, _find)
        # A file is decoded once for each: a graph with several outputs would have to be built anew
        # for each number of cuts.
        self._waiting.extend(
            Cut(request, crops, reading) for crops in (request.crops, *request.also)
        )
        return True


def _find(source: ByteRange) -> Found:
    """Read an image and look at it; runs in a reading thread."""
    try:
        data = read_image(source)
    except DamagedImage as error:
        return error
    return data, whole_frame(data)


def _encoded(cut: Cut[R]) -> tuple[list[Bytes], Crops]:
    """The JPEGs of a cut, with a stand-in for each image that DALI does not get.

    Raises:
        DataError: a bucket does not give the bytes, or an image is not what was indexed.
    """
    images = []
    for row, source in enumerate(cut.request.ranges):
        found = cut.reading.row(row)
        data, frame = (found, None) if isinstance(found, DamagedImage) else found
        if isinstance(data, DamagedImage) or frame is None:
            cut.others[row] = data
            images.append(_STAND_IN)
        else:
            check_window(frame.height, frame.width, source.name, cut.crops, row)
            images.append(data)
    window = cut.crops.window.copy()
    window[list(cut.others)] = (0, 0, _SIDE, _SIDE)
    return images, replace(cut.crops, window=window)


def _stand_in() -> Bytes:
    stream = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE)).save(stream, "JPEG")
    return np.frombuffer(bytearray(stream.getvalue()), np.uint8)


_STAND_IN = _stand_in()
