"""Read image headers: format, stored size and file length of many files, without decoding them."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ixt.images.byte_ranges import ByteRange, read_bytes
from ixt.images.image import FORMATS
from ixt.images.jpeg import find_frame
from ixt.images.progress_lines import Report


class ImageFormat(IntEnum):
    """What a file holds, whatever its name says; part of the cached index: never renumber."""

    UNREADABLE = 0
    JPEG = 1
    PNG = 2
    GIF = 3
    BMP = 4
    WEBP = 5
    PPM = 6
    TIFF = 7
    OTHER = 255


@dataclass(frozen=True)
class Headers:
    """One row per file."""

    formats: NDArray[np.uint8]
    """(n,) ImageFormat."""
    sizes: NDArray[np.int32]
    """(n, 2) height, width of the stored image; 0, 0 where unreadable."""
    num_bytes: NDArray[np.int64]
    """(n,) length of the file."""


Head = tuple[int, int, int]
"""ImageFormat, height and width of an image."""
UNREADABLE: Head = (ImageFormat.UNREADABLE, 0, 0)
_Row = tuple[int, int, int, int]  # and its length in bytes

PILLOW_FORMATS = {
    "JPEG": ImageFormat.JPEG,
    "MPO": ImageFormat.JPEG,  # a JPEG with further pictures behind it
    "PNG": ImageFormat.PNG,
    "GIF": ImageFormat.GIF,
    "BMP": ImageFormat.BMP,
    "DIB": ImageFormat.BMP,
    "WEBP": ImageFormat.WEBP,
    "PPM": ImageFormat.PPM,
    "TIFF": ImageFormat.TIFF,
}
"""Pillow's names of formats; any other is OTHER."""
# A network file system answers each open after about a millisecond: 16 threads hide that, and
# cost little where files lie in memory (25,000 files/s on two cores instead of 70,000).
_NUM_THREADS = 16
_CHUNK = 512
HEAD_BYTES = 4096
"""One page; holds the frame header of most photographs."""


def read_headers(folder: bytes, files: Sequence[bytes], report: Report | None = None) -> Headers:
    """Read the header of each file, in parallel; a file that is no image gets UNREADABLE.

    Args:
        folder: folder that the paths are relative to.
        files: paths of the files.
        report: called from this thread with the progress.
    """
    return _read_all(len(files), lambda row: _read_header(os.path.join(folder, files[row])), report)


def read_object_headers(
    count: int, source: Callable[[int], ByteRange], report: Report | None = None
) -> Headers:
    """Read the header of each image in a bucket, as `read_headers` does for files.

    Args:
        count: number of images.
        source: gives each, with the version to read, and no other.
        report: called from this thread with the progress.

    Raises:
        StorageError: a bucket does not give the bytes.
    """
    return _read_all(count, lambda row: _read_part(source(row)), report)


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Hide Pillow's remarks on odd metadata and huge images: none is about size or format."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def _read_all(count: int, read: Callable[[int], _Row], report: Report | None) -> Headers:
    table = np.empty((count, 4), np.int64)

    def read_chunk(start: int) -> list[_Row]:
        return [read(row) for row in range(start, min(start + _CHUNK, count))]

    starts = range(0, count, _CHUNK)
    with quiet_pillow(), ThreadPoolExecutor(_NUM_THREADS) as pool:
        for start, rows in zip(starts, pool.map(read_chunk, starts), strict=True):
            done = start + len(rows)
            table[start:done] = rows
            if report is not None:
                report(done, count)
    return Headers(
        formats=table[:, 0].astype(np.uint8),
        sizes=table[:, 1:3].astype(np.int32),
        num_bytes=table[:, 3].copy(),
    )


def _read_header(path: bytes) -> _Row:
    """Identify one file: most JPEG files by their first bytes, all others through Pillow."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return (*UNREADABLE, 0)
    try:
        status = os.fstat(descriptor)
        head = os.read(descriptor, HEAD_BYTES) if stat.S_ISREG(status.st_mode) else b""
    except OSError:
        return (*UNREADABLE, 0)
    finally:
        os.close(descriptor)
    return (*identify(head, lambda: os.fsdecode(path)), status.st_size)


def _read_part(source: ByteRange) -> _Row:
    """Identify one object."""
    assert source.size is not None
    # What has a member is read by range, whatever its own length.
    size, source = source.size, source._replace(member=source.member or "image")
    try:
        head = read_bytes(source._replace(size=min(size, HEAD_BYTES))).tobytes()
        found = identify(head, lambda: io.BytesIO(read_bytes(source).data))
    except OSError:
        return (*UNREADABLE, size)
    return (*found, size)


def identify(head: bytes, whole: Callable[[], str | io.BytesIO]) -> Head:
    """Format, height and width by an image's first bytes, or by all of it where these do not do."""
    found = jpeg_size(head)
    if found is not None:
        return (ImageFormat.JPEG, *found)
    return _ask_pillow(whole()) if head else UNREADABLE


def jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Height and width of an ordinary JPEG file; None where Pillow has to decide.

    Four times as fast as Image.open, and so short that threads suffice: worker processes would
    run the main script again wherever it lacks the `__main__` guard.

    Args:
        head: the first bytes of the file.

    """
    frame = find_frame(head)
    plain = frame is not None and frame.bits == 8 and frame.channels in (1, 3, 4)
    return frame[:2] if frame is not None and plain and all(frame[:2]) else None


def _ask_pillow(file: str | io.BytesIO) -> Head:
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            image_format = PILLOW_FORMATS.get(image.format or "", ImageFormat.OTHER)
    except Exception:  # Pillow's readers raise nearly anything on a broken header
        return UNREADABLE
    if height < 1 or width < 1:
        return UNREADABLE
    return (image_format, height, width)
