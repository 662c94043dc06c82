"""Write the images of a tar into a staged folder: one pass over the tar, several threads.

One thread reads the tar from front to back for its MD5; behind it, each class is extracted by a
pool out of the pages that the sum has just read. The sum stays close ahead (a few classes), so
the disk delivers the tar once, and without a sum the pool reads it alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from threading import Event, Lock

from ixt.errors import DataError
from ixt.images.classes import validation_class
from ixt.images.progress_lines import Report
from ixt.tools.prepare.archives import CLASS_TAR, Entry, check_image, named, walk
from ixt.tools.prepare.staging import Held, Place

_READ_BYTES = 4 << 20
_GROUP_BYTES = 32 << 20  # validation images that one thread takes at a time
_METER_IMAGES = 50  # images between two reports, so that threads seldom meet at the meter
_MB = 1_000_000


@dataclass
class Meter:
    """Counts of a running extraction; safe to add to from any thread."""

    total_bytes: int
    report: Report
    """Called with megabytes."""
    num_bytes: int = 0
    num_written: int = 0
    """Images."""
    _lock: Lock = field(default_factory=Lock)

    def add(self, num_bytes: int, num_written: int) -> None:
        """Count bytes that are dealt with, and images that were written."""
        with self._lock:
            self.num_bytes += num_bytes
            self.num_written += num_written
            self.report(self.num_bytes // _MB, self.total_bytes // _MB)


@dataclass(frozen=True)
class Extraction:
    """What the threads of one extraction share."""

    descriptor: int
    """The open tar."""
    where: Path
    place: Place
    meter: Meter
    stop: Event = field(default_factory=Event)
    """Set when one thread failed: the others end at their next image."""


@dataclass(frozen=True)
class Job:
    """Images that one thread extracts."""

    end: int
    """First byte of the tar behind them."""
    work: Callable[[], Counter[str]]
    """Does it, and returns the number of images of each class."""


class StreamSum:
    """The MD5 of an open file, taken from front to back in steps."""

    def __init__(self, descriptor: int, where: Path) -> None:
        self._descriptor, self._where, self._position = descriptor, where, 0
        self._sum = hashlib.md5(usedforsecurity=False)
        self._buffer = bytearray(_READ_BYTES)

    def advance(self, end: int | None = None) -> None:
        """Read on to a byte position, or to the end of the file."""
        view = memoryview(self._buffer)
        while end is None or self._position < end:
            with named(self._where):
                num_bytes = os.preadv(self._descriptor, [self._buffer], self._position)
            if not num_bytes:
                return
            self._sum.update(view[:num_bytes])
            self._position += num_bytes

    def hexdigest(self) -> str:
        """The sum of the whole file."""
        self.advance()
        return self._sum.hexdigest()


def train_jobs(extraction: Extraction, members: Iterable[Entry]) -> Iterator[Job]:
    """One job per class tar."""
    for member in members:
        yield Job(_end(member), partial(extract_class, extraction, member))


def val_jobs(extraction: Extraction, labels: tuple[str, ...]) -> Iterator[Job]:
    """Groups of neighbouring validation images, each with its class.

    Raises:
        DataError: the tar is cut off, or holds an image that `labels` does not know.
    """
    held = cache(extraction.place.held)
    length = os.fstat(extraction.descriptor).st_size
    group: list[tuple[str, Entry]] = []
    num_bytes = 0
    for member in walk(extraction.descriptor, 0, length, str(extraction.where)):
        class_name = validation_class(member.name, labels)
        if class_name is None:
            raise DataError(
                f"{extraction.where}: holds {member.name}, not one of the {len(labels):,} "
                "validation images that the labels name; give ILSVRC2012_img_val.tar"
            )
        group.append((class_name, member))
        num_bytes += member.size
        if num_bytes >= _GROUP_BYTES:
            yield Job(_end(member), partial(_extract_images, extraction, group, held))
            group, num_bytes = [], 0
    if group:
        yield Job(_end(group[-1][1]), partial(_extract_images, extraction, group, held))


def run_jobs(
    jobs: Iterable[Job], stop: Event, num_threads: int, stream_sum: StreamSum | None
) -> Counter[str]:
    """Do all jobs, none of them before the sum has passed it.

    Returns:
        Number of images of each class.
    """
    counts: Counter[str] = Counter()
    pending: set[Future[Counter[str]]] = set()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for job in jobs:
                if stream_sum is not None:
                    stream_sum.advance(job.end)
                pending.add(pool.submit(job.work))
                if len(pending) > num_threads:  # each thread works and one more job waits
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        counts += future.result()
            for future in pending:
                counts += future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return counts


def extract_class(extraction: Extraction, member: Entry) -> Counter[str]:
    """Extract a class tar that is a byte range of the open file; returns its number of images."""
    match = CLASS_TAR.fullmatch(member.name)
    assert match is not None, "class_tars yields class tars only"
    where = f"{extraction.where}: {member.name}"
    images = []
    for image in walk(extraction.descriptor, member.offset, member.size, where):
        check_image(image, where)
        images.append((match[1], image))
    return _extract_images(extraction, images, cache(extraction.place.held))


def _extract_images(
    extraction: Extraction,
    images: list[tuple[str, Entry]],
    held: Callable[[str], dict[str, Held]],
) -> Counter[str]:
    made: set[str] = set()
    num_bytes = num_written = 0
    for number, (class_name, image) in enumerate(images, 1):
        if extraction.stop.is_set():
            break
        if not _is_there(extraction, image, held(class_name).get(image.name)):
            folder = extraction.place.staged / class_name
            if class_name not in made:
                folder.mkdir(exist_ok=True)
                made.add(class_name)
            _write(extraction, folder / image.name, image)
            num_written += 1
        num_bytes += image.size
        if number % _METER_IMAGES == 0:
            extraction.meter.add(num_bytes, num_written)
            num_bytes = num_written = 0
    extraction.meter.add(num_bytes, num_written)
    return Counter(class_name for class_name, _ in images)


def _end(member: Entry) -> int:
    """First byte of the tar behind a member's content."""
    return member.offset + member.size


def _is_there(extraction: Extraction, image: Entry, held: Held | None) -> bool:
    """Whether an image need not be written; one cut off by another program's end is."""
    if held is None:
        return False
    if held.published and held.size != image.size:
        if held.size < image.size and held.path.read_bytes() == _read(
            extraction, image.offset, held.size
        ):
            return False
        raise DataError(
            f"{held.path}: is another image than {image.name} of {extraction.where}; "
            "choose a new folder, or remove it to have it replaced"
        )
    if held.size == image.size and not held.published and not extraction.place.survived:
        return held.path.read_bytes() == _read(extraction, image.offset, image.size)
    return held.size == image.size


def _write(extraction: Extraction, path: Path, image: Entry) -> None:
    """Write a staged image. A kill leaves it short, and its size then tells."""
    content = _read(extraction, image.offset, image.size)
    with named(path):
        path.write_bytes(content)


def _read(extraction: Extraction, offset: int, size: int) -> bytes:
    with named(extraction.where):
        content = os.pread(extraction.descriptor, size, offset)
        while len(content) < size:
            more = os.pread(extraction.descriptor, size - len(content), offset + len(content))
            if not more:
                raise OSError(errno.EIO, "became shorter while it was read")
            content += more
    return content
