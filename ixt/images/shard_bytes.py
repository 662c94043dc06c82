"""The bytes of a tar or a parquet file, on a disk or in a bucket, for whoever lists its images.

In a bucket it is read once, window by window from its beginning, and what the index needs of it is
kept on the way: the labels, and format and size of each image. A member of a tar longer than a
window is jumped over.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

from ixt.images.folders import Place, is_image
from ixt.images.headers import HEAD_BYTES, identify
from ixt.storage.paths import ObjectReader, RemotePath

_BLOCK = 512
_SMALL = 2**16  # a label


class ShardBytes(Protocol):
    """An open shard."""

    @property
    def file(self) -> BinaryIO:
        """What tarfile reads."""

    size: int

    def at(self, offset: int, size: int) -> bytes:
        """Some bytes; fewer at the end."""

    def keep(self, name: bytes, offset: int, size: int) -> None:
        """Take note of a member, which was just come upon."""


class _LocalBytes:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size

    def at(self, offset: int, size: int) -> bytes:
        return os.pread(self.file.fileno(), size, offset)

    def keep(self, name: bytes, offset: int, size: int) -> None:
        pass


class RemoteBytes(ObjectReader):
    """An open shard in a bucket."""

    @property
    def file(self) -> BinaryIO:
        """Itself, which is all that tarfile asks of a file."""
        return self  # type: ignore[return-value]

    def at(self, offset: int, size: int) -> bytes:
        """Some bytes; fewer at the end."""
        known = self.path.notes.contents.get(offset)
        return known if known is not None and len(known) == size else super().at(offset, size)

    def keep(self, name: bytes, offset: int, size: int) -> None:
        """Take note of a member, which was just come upon."""
        if is_image(name):
            head = self.at(offset, min(size, HEAD_BYTES))
            whole = lambda: io.BytesIO(self.at(offset, size))  # noqa: E731
            self.path.notes.headers[offset] = identify(head, whole)
        elif size <= _SMALL:
            self.path.notes.contents[offset] = self.at(offset, size)


@contextmanager
def open_shard(place: Place) -> Iterator[ShardBytes]:
    """Open a shard to list it.

    Raises:
        OSError: it cannot be opened.
        StorageError: as `read_object`.
    """
    if isinstance(place, RemotePath):
        yield RemoteBytes(place)
        return
    with open(place, "rb", buffering=8 * _BLOCK) as file:
        yield _LocalBytes(file)


def length_of(place: Place) -> int:
    """Length of a file or an object in bytes."""
    return place.file.size if isinstance(place, RemotePath) else place.stat().st_size
