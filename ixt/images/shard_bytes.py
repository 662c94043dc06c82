"""The bytes of a tar or a parquet file, on a disk or in a bucket, for whoever lists its images.

It is read once, window by window from its beginning; labels, and format and size of each image, are
taken on the way. What lies behind the window is jumped over.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ixt.images.folders import Place
from ixt.images.headers import HEAD_BYTES, UNREADABLE, Head, identify
from ixt.storage.objects import read_object
from ixt.storage.paths import RemotePath

_WINDOW = 2**14
"""Of a disk: a header, what is needed of an image behind it, and mostly the next label."""
_REMOTE_WINDOW = 2**22


class ShardBytes(io.RawIOBase):
    """An open shard. It is also a file, as which tarfile and pyarrow read it."""

    def __init__(self, size: int, window: int, read: Callable[[int, int, int], bytes]) -> None:
        """Hold no window yet.

        Args:
            size: length of the shard.
            window: bytes to read at once.
            read: gives the bytes from an offset on: as many as its second argument says, or better
                as its third.
        """
        self.size = size
        self._length = window
        self._read = read
        self._position = 0
        self._window, self._start = b"", 0

    def at(self, offset: int, size: int) -> bytes:
        """Some bytes; fewer at the end. They and those behind them become the window if need be.

        Raises:
            OSError: the disk does not give them.
            StorageError: as `read_object`.
        """
        begin = offset - self._start
        if begin < 0 or begin + size > len(self._window):
            left = max(0, self.size - offset)
            size = min(size, left)
            self._window = self._read(offset, size, min(max(size, self._length), left))
            self._start, begin = offset, 0
        return self._window[begin : begin + size]

    def head(self, offset: int, size: int) -> Head:
        """Format, height and width of an image; it is unreadable if the disk does not give it.

        Raises:
            StorageError: as `read_object`.
        """
        try:
            head = self.at(offset, min(size, HEAD_BYTES))
            return identify(head, lambda: io.BytesIO(self.at(offset, size)))
        except OSError:
            return UNREADABLE

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def seekable(self) -> bool:
        """Whether it has places."""
        return True

    def tell(self) -> int:
        """Its position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position."""
        before = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = before + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Some bytes from the position on."""
        left = max(0, self.size - self._position)
        data = self.at(self._position, left if size < 0 else min(size, left))
        self._position += len(data)
        return data


@contextmanager
def open_shard(place: Place) -> Iterator[ShardBytes]:
    """Open a shard to list it.

    Raises:
        OSError: it cannot be opened.
    """
    if isinstance(place, RemotePath):
        yield open_object(place)
        return
    with open(place, "rb", buffering=0) as file:
        yield of_descriptor(file.fileno())


def open_object(place: RemotePath) -> ShardBytes:
    """A shard in a bucket, of the version that was listed."""
    file = place.file

    def read(offset: int, size: int, more: int) -> bytes:
        return read_object(place.url, offset, more, file.version)

    return ShardBytes(file.size, _REMOTE_WINDOW, read)


def of_descriptor(descriptor: int) -> ShardBytes:
    """A shard in an open file, whose own position is neither used nor moved."""

    def read(offset: int, size: int, more: int) -> bytes:
        try:
            data = os.pread(descriptor, more, offset)
        except OSError:  # maybe of bytes that nobody needs
            data = b""
        while len(data) < size:
            rest = os.pread(descriptor, size - len(data), offset + len(data))
            if not rest:
                break
            data += rest
        return data

    return ShardBytes(os.fstat(descriptor).st_size, _WINDOW, read)


def length_of(place: Place) -> int:
    """Length of a file or an object in bytes."""
    return place.file.size if isinstance(place, RemotePath) else place.stat().st_size
