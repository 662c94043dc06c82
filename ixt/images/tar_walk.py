"""Go through the files of a tar: each ordinary header is read here, all others by tarfile.

An ordinary header differs from one that tarfile has read before in the same tar, as that of a plain
file, in nothing but name, length, time and checksum; an extended header before it gives times only.
That is a tenth of tarfile's work, for what GNU tar, Python and WebDataset's writer mostly write.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from tarfile import BLOCKSIZE
from typing import NamedTuple

from ixt.errors import DataError, first_line
from ixt.images.shard_bytes import ShardBytes

# Length, time and checksum, as every writer ends them; places and other forms are tarfile's affair.
_NUMBERS = re.compile(rb"([0-7]{11})[\0 ][0-7]{11}[\0 ]([0-7]{6})\0 ")
_NUMBERS_AT, _TYPE_AT, _PREFIX_AT = 124, 156, 345
_FILES, _EXTENDED = b"0\0", b"x"
_TIME = re.compile(rb"([1-9]\d{0,2}) [acm]time=[0-9.]+\n")
_MOST_SHAPES = 64
_STEP = 2**20


class Member(NamedTuple):
    """A file within a tar."""

    name: bytes
    """Its path there, without the ./ that some begin with."""
    offset: int
    """Its first byte, counted from the start of the outermost tar."""
    size: int
    """Its length in bytes."""


def walk_tar(file: ShardBytes, start: int, length: int, where: str) -> Iterator[Member]:
    """Go through the files of a tar that is a byte range of a file; folders are passed over.

    Args:
        file: the file; between two members, its position must stay.
        start: first byte of the tar; offsets of its members count from the start of the file.
        length: bytes of the tar.
        where: name of the tar for messages.

    Raises:
        DataError: the tar is cut off or damaged, has data behind its end, or holds what no image
            set does: a link, a device, a path that leads out of it.
        OSError: it cannot be read; the error names `where`.
    """
    end = start + length
    try:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            plain = _PlainHeaders(file, end)
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps a kilobyte for each
                _refuse_odd(where, info)
                if not 0 <= info.size <= end - info.offset_data:
                    raise tarfile.ReadError("unexpected end of data")
                plain.learn(info)
                if not info.isdir():
                    yield _member(os.fsencode(info.name), info.offset_data, info.size)
                if tar.pax_headers:  # they hold for all members behind them
                    continue
                while (member := plain.read(tar.offset)) is not None:
                    yield member
                    tar.offset = _next_header(member)
            if tar.offset + BLOCKSIZE > end or file.at(tar.offset, BLOCKSIZE) != bytes(BLOCKSIZE):
                # tarfile takes a bad header, and the end of the file, for the end of the archive.
                raise tarfile.ReadError(f"no end mark at byte {tar.offset}")
            _refuse_more(file, tar.offset, end, where)
    # tarfile computes with what headers claim, sizes and sparse maps too.
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError) as error:
        raise DataError(
            f"{where}: cannot be read as a tar ({first_line(error)}); it is cut off or damaged; "
            "download or copy it again"
        ) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, where) from error


def _refuse_more(file: ShardBytes, at: int, end: int, where: str) -> None:
    """Refuse data behind the end mark, which every reader would silently leave out."""
    while at < end:
        zeros = file.at(at, min(_STEP, end - at))
        if not zeros or zeros.strip(b"\0"):
            at += len(zeros) - len(zeros.lstrip(b"\0"))
            raise DataError(
                f"{where}: has data behind its end mark, at byte {at}; if it was joined of several "
                "tars, join them by tar --concatenate instead of cat, or keep them apart"
            )
        at += len(zeros)


class _PlainHeaders:
    """Reads the headers of plain files that look like one that tarfile has read."""

    def __init__(self, file: ShardBytes, end: int) -> None:
        self._file = file
        self._end = end
        # What is the same in headers that look alike, and its part of the checksum.
        self._shapes: dict[bytes, int] = {}

    def learn(self, info: tarfile.TarInfo) -> None:
        """Take note of the headers of a file or a folder that tarfile has read."""
        for at in {info.offset, info.offset_data - BLOCKSIZE}:
            block = self._file.at(at, BLOCKSIZE)
            is_plain = block[_TYPE_AT] in _FILES + _EXTENDED and not block[_PREFIX_AT]
            if is_plain and len(self._shapes) < _MOST_SHAPES:
                shape = _shape(block)
                self._shapes[shape] = sum(shape) + 8 * ord(" ")  # in place of the checksum

    def read(self, at: int) -> Member | None:
        """The plain file whose header begins at a place; None if tarfile has to look at it."""
        block = self._file.at(at, BLOCKSIZE)
        size = self._size(block)
        if size is not None and block[_TYPE_AT] in _EXTENDED:
            if not _gives_times_only(self._file.at(at + BLOCKSIZE, BLOCKSIZE), size):
                return None
            at += 2 * BLOCKSIZE
            block = self._file.at(at, BLOCKSIZE)
            size = self._size(block)
        if size is None or block[_TYPE_AT] not in _FILES:
            return None
        name = block[:100].partition(b"\0")[0]
        at += BLOCKSIZE
        odd = name.startswith(b"/") or name.endswith(b"/") or b".." in name
        return None if odd or size > self._end - at else _member(name, at, size)

    def _size(self, block: bytes) -> int | None:
        """The length that a header gives, if it looks like one before and its checksum is right."""
        known = self._shapes.get(_shape(block))
        numbers = _NUMBERS.match(block, _NUMBERS_AT)
        if known is None or numbers is None:
            return None
        size, checksum = numbers.groups()
        total = known + sum(block[:100]) + sum(block[_NUMBERS_AT:148])
        return int(size, 8) if total == int(checksum, 8) else None


def _shape(block: bytes) -> bytes:
    """A header without name, length, time and checksum."""
    return block[100:_NUMBERS_AT] + block[_TYPE_AT:]


def _gives_times_only(block: bytes, size: int) -> bool:
    """Whether an extended header of at most a block says nothing else of the next file."""
    at = 0
    while at < size and (record := _TIME.match(block, at)) is not None:
        if record.end() - at != int(record[1]):
            return False
        at = record.end()
    return at == size > 0 and not any(block[size:])


def _member(name: bytes, offset: int, size: int) -> Member:
    return Member(name.removeprefix(b"./"), offset, size)


def _next_header(member: Member) -> int:
    return member.offset + -(-member.size // BLOCKSIZE) * BLOCKSIZE


def _refuse_odd(where: str, info: tarfile.TarInfo) -> None:
    problem = None
    if info.name.startswith("/") or ".." in info.name.split("/"):
        problem = "points outside the tar"
    elif not info.isdir() and (not info.isreg() or info.issparse()):
        kind = "a link" if info.issym() or info.islnk() else "not a plain file"
        problem = f"is {kind}; only plain files are read"
    if problem is not None:
        raise DataError(f"{where}: member {info.name!r} {problem}; download or pack the tar again")
