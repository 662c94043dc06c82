"""The bytes of a tar, on a disk or in a bucket, for whoever lists its members.

A tar in a bucket is read once, window by window from its beginning, and what the index needs of it
is kept on the way: the labels, and format and size of each image. A member longer than a window is
jumped over.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from ixt.images.folders import is_image
from ixt.images.headers import HEAD_BYTES, identify
from ixt.storage.objects import RemoteFile, read_object

_BLOCK = 512
_WINDOW = 2**22
_SMALL = 2**16  # a label


@dataclass
class RemoteTar:
    """A tar in a bucket; named and printed as a Path is."""

    folder: str
    """URL of what it lies in."""
    name: str
    file: RemoteFile
    """Its length and version: no other version is read."""
    headers: dict[int, tuple[int, int, int]] = field(default_factory=dict, repr=False)
    """Format, height and width of each image listed, by its first byte."""
    labels: dict[int, bytes] = field(default_factory=dict, repr=False)
    """Content of each small other member listed, by its first byte."""

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"

    @property
    def stem(self) -> str:
        """Its name without suffix."""
        return self.name.removesuffix(".tar")


TarPlace = Path | RemoteTar


class TarBytes(Protocol):
    """An open tar."""

    file: BinaryIO
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


class _RemoteBytes(io.RawIOBase):
    def __init__(self, tar: RemoteTar) -> None:
        self.file: BinaryIO = self  # type: ignore[assignment]  # all that tarfile asks of one
        self.size = tar.file.size
        self._tar = tar
        self._position = 0
        self._window, self._start = b"", 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        before = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = before + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.size - self._position)
        data = self.at(self._position, left if size < 0 else min(size, left))
        self._position += len(data)
        return data

    def at(self, offset: int, size: int) -> bytes:
        known = self._tar.labels.get(offset)
        if known is not None and len(known) == size:
            return known
        size = min(size, self.size - offset)
        if not self._start <= offset <= offset + size <= self._start + len(self._window):
            length = min(max(size, _WINDOW), self.size - offset)
            self._window = read_object(str(self._tar), offset, length, self._tar.file.version)
            self._start = offset
        begin = offset - self._start
        return self._window[begin : begin + size]

    def keep(self, name: bytes, offset: int, size: int) -> None:
        if is_image(name):
            head = self.at(offset, min(size, HEAD_BYTES))
            whole = lambda: io.BytesIO(self.at(offset, size))  # noqa: E731
            self._tar.headers[offset] = identify(head, whole)
        elif size <= _SMALL:
            self._tar.labels[offset] = self.at(offset, size)


@contextmanager
def open_tar(place: TarPlace) -> Iterator[TarBytes]:
    """Open a tar to list it.

    Raises:
        OSError: it cannot be opened.
        StorageError: as `read_object`.
    """
    if isinstance(place, RemoteTar):
        yield _RemoteBytes(place)
        return
    with open(place, "rb", buffering=8 * _BLOCK) as file:
        yield _LocalBytes(file)


def length_of(place: TarPlace) -> int:
    """Length of a tar in bytes."""
    return place.file.size if isinstance(place, RemoteTar) else place.stat().st_size
