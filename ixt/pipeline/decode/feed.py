"""What a pipeline that pulls its input reads from: requests, and their bytes where it cannot read.

A pipeline holds several requests in flight. Those that a failed one did not deliver go to the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

import numpy as np

from ixt.errors import DataError
from ixt.images.byte_ranges import Bytes, ReadAhead, Reading
from ixt.pipeline.decode.base import Request


class Feed:
    """Hands requests to pipelines and remembers those whose batch has not come out yet."""

    def __init__(self, requests: Iterable[Request], read_ahead: ReadAhead, num_ahead: int) -> None:
        self._requests = iter(requests)
        self._read_ahead = read_ahead
        self._num_ahead = num_ahead
        self._waiting: deque[_Item] = deque()
        self._taken: deque[_Item] = deque()
        self._error: Exception | None = None

    def restart(self) -> Request | None:
        """Take back what the last pipeline did not deliver; the first request, None at the end.

        Raises:
            Exception: what the requests raised, once all before it are decoded.
        """
        self._waiting.extendleft(reversed(self._taken))
        self._taken.clear()
        if not self._waiting:
            self._pull()
        if not self._waiting and self._error is not None:
            raise self._error
        return self._waiting[0].request if self._waiting else None

    def take(self, max_batch: int, files: bool) -> tuple[Request, list[Bytes] | None]:
        """Hand out the next request, and its encoded images where the pipeline does not read.

        Args:
            max_batch: images that the pipeline takes at most.
            files: whether the pipeline reads files, or takes encoded images.

        Raises:
            StopIteration: the requests are at an end, or the next one does not suit the pipeline.
        """
        # Batches are read while those before them are decoded.
        for _ in range(len(self._waiting), 1 if files else 1 + self._num_ahead):
            self._pull()
        if not self._waiting:
            raise StopIteration
        request, reading = self._waiting[0]
        if len(request) > max_batch or (reading is None) != files:
            raise StopIteration
        try:
            encoded = None if reading is None else _encoded(request, reading)
        except DataError as error:  # not to be taken for an error of DALI's, either
            self.cancel()
            self._error = error
            raise StopIteration from error
        self._taken.append(self._waiting.popleft())
        return request, encoded

    def pop(self) -> Request:
        """Take out the oldest request handed out: its batch has been decoded, or has failed."""
        return self._taken.popleft().request

    def cancel(self) -> None:
        """Forget the requests that no pipeline has taken."""
        for item in self._waiting:
            if item.reading is not None:
                item.reading.cancel()
        self._waiting.clear()

    def _pull(self) -> None:
        if self._error is None:
            try:
                for request in islice(self._requests, 1):
                    files = are_files(request)
                    reading = None if files else self._read_ahead.start(request.ranges)
                    self._waiting.append(_Item(request, reading))
            except Exception as error:  # raised later, not to be taken for an error of DALI's
                self._error = error


class _Item(NamedTuple):
    request: Request
    reading: Reading | None
    """Its encoded images; None where DALI is to read the files."""


def are_files(request: Request) -> bool:
    """Whether each image of a request is a local file of its own."""
    return all(source.is_file for source in request.ranges)


def _encoded(request: Request, reading: Reading) -> list[Bytes]:
    """The encoded images of a request, waited for.

    Raises:
        DataError: a bucket does not give the bytes.
    """
    images = []
    for row in range(len(request)):
        try:
            images.append(reading.row(row))
        except OSError:  # no bytes fail to decode, and then the file is looked at and named
            images.append(np.zeros(0, np.uint8))
    return images
