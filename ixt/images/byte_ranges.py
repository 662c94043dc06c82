"""Where an image's bytes lie: a whole file, or a part of a tar, on a disk or in a bucket."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ixt.files import refuse_irregular
from ixt.storage.urls import is_remote

Bytes = NDArray[np.uint8]
T = TypeVar("T")

# Reads of a bucket wait for the server: 64 at once fetch some 2,000 images/s at 30 ms each.
_NUM_READERS = 64
_JOBS_OF_A_DISK = 32
# Well below the 1,024 descriptors that a process usually may have.
_OPEN_SHARDS = 256


class ByteRange(NamedTuple):
    """The bytes of one image."""

    path: str
    """A file, or the URL of an object in a bucket."""
    offset: int = 0
    """First byte of the image in it."""
    size: int | None = None
    """Bytes of the image; None for the whole of a local file, whatever its length."""
    member: str = ""
    """The image's name within the shard; empty for a whole file."""
    crc32: int | None = None
    """CRC-32 that its bytes must have; None where it is not known."""
    version: str = ""
    """The version of an object in a bucket that is read, and no other; empty for any."""

    @property
    def name(self) -> str:
        """The image's name in error messages: its path, or `shard.tar!member`."""
        return f"{self.path}!{self.member}" if self.member else self.path

    @property
    def is_file(self) -> bool:
        """Whether the image is a local file of its own."""
        return self.size is None

    @property
    def is_remote(self) -> bool:
        """Whether the image lies in a bucket."""
        return is_remote(self.path)


class WrongBytes(OSError):
    """An image's bytes are not those that were packed."""


def read_bytes(source: ByteRange) -> Bytes:
    """Read an image's bytes, and verify them where their CRC-32 is known.

    Returns:
        (size,) uint8.

    Raises:
        WrongBytes: their CRC-32 differs.
        OSError: the file is missing, not readable, or ends before the image does.
        DataError: a bucket does not give the bytes, after several attempts.
    """
    data = _read(source)
    # Any change of up to 32 bits in a row shows, of others all but one of 4 billion.
    if source.crc32 is not None and zlib.crc32(data.data) != source.crc32:
        raise WrongBytes(
            errno.EBADMSG,
            "its bytes have changed since packing (the CRC-32 differs); copy the tar again",
            source.path,
        )
    return data


def _read(source: ByteRange) -> Bytes:
    if source.size is None:
        return _read_file(source.path)
    if source.is_remote:
        # A copy, because torch warns of memory that may not be written.
        return np.frombuffer(bytearray(_read_remote(source, source.size)), np.uint8)
    return _read_shard(source.path, source.offset, source.size)


def _read_remote(source: ByteRange, size: int) -> bytes:
    from ixt.storage.objects import read_object

    if source.member or source.offset:
        return read_object(source.path, source.offset, size, source.version)
    data = read_object(source.path, size=None if size else 0)
    if len(data) != size:
        raise WrongBytes(
            errno.EBADMSG,
            f"has {len(data)} bytes, and had {size} when it was indexed; start again, which looks "
            "at the images again",
            source.path,
        )
    return data


def _read_file(path: str) -> Bytes:
    # np.fromfile would open it through Python's file objects, which takes twice as long.
    # Without O_NONBLOCK, opening a named pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        refuse_irregular(descriptor, path)
        return _read_at(descriptor, 0, os.fstat(descriptor).st_size, path)
    finally:
        os.close(descriptor)


def _read_shard(path: str, offset: int, size: int) -> Bytes:
    shard = _open_shard(path)  # held until it is read: another thread may close what nobody holds
    return _read_at(shard.descriptor, offset, size, path)


def _read_at(descriptor: int, offset: int, size: int, path: str) -> Bytes:
    data = np.empty(size, np.uint8)
    done = 0
    while done < size:
        count = os.preadv(descriptor, [data[done:].data], offset + done)
        if count == 0:
            raise OSError(errno.EIO, "the file ends before the image does", path)
        done += count
    return data


class _Shard:
    """An open file that is closed when the last thread has finished reading it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@lru_cache(_OPEN_SHARDS)
def _open_shard(path: str) -> _Shard:
    return _Shard(path)


class Reading(Generic[T]):
    """The bytes of a batch, or what was made of them, on their way."""

    def __init__(self, jobs: list[Future[list[T | OSError]]], reads_per_job: int) -> None:
        self._jobs = jobs
        self._reads_per_job = reads_per_job

    def row(self, row: int) -> T:
        """Wait for one image.

        Raises:
            OSError: as `read_bytes`.
            DataError: as `read_bytes`.
        """
        job, place = divmod(row, self._reads_per_job)
        data = self._jobs[job].result()[place]
        if isinstance(data, OSError):
            raise data
        return data

    def cancel(self) -> None:
        """Cancel the reads that no thread has begun."""
        for job in self._jobs:
            job.cancel()


class ReadAhead:
    """Reads the images of coming batches in threads of its own.

    So a cold disk or a slow network delays neither the caller's thread nor a decoding one by more
    than the slowest image of a batch.
    """

    def __init__(self) -> None:
        # Threads start as they are needed, so an unused pool costs nothing.
        self._pool = ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="read")

    def start(self, sources: Sequence[ByteRange], read: Callable[[ByteRange], T]) -> Reading[T]:
        """Begin to read a batch; what is read is held until the result is dropped.

        Args:
            sources: where the images lie.
            read: reads one, e.g. `read_bytes`; it may also look at it.
        """
        # Reads of a local file may take microseconds, less than handing over each would.
        remote = any(source.is_remote for source in sources)
        count = 1 if remote else -(-len(sources) // _JOBS_OF_A_DISK)
        jobs = [
            self._pool.submit(_read_all, sources[at : at + count], read)
            for at in range(0, len(sources), count)
        ]
        return Reading(jobs, count)

    def close(self) -> None:
        """End the threads, after the reads that they have at hand."""
        self._pool.shutdown(cancel_futures=True)


def _read_all(sources: Sequence[ByteRange], read: Callable[[ByteRange], T]) -> list[T | OSError]:
    return [_try_read(source, read) for source in sources]


def _try_read(source: ByteRange, read: Callable[[ByteRange], T]) -> T | OSError:
    """Keep an error as the result of its own image, so that it does not affect the others."""
    try:
        return read(source)
    except OSError as error:
        return error
