"""Write one shard: images read, made smaller where asked for, and stored with their labels."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from PIL import Image

from ixt.errors import DataError
from ixt.files import published
from ixt.images.byte_ranges import ByteRange, Bytes
from ixt.images.image import DamagedImage, decode_with_pillow, read_image
from ixt.images.tar_walk import Member
from ixt.images.tars import list_members
from ixt.tools.pack.layout import PackPlan

_LABEL = ".cls"
_AHEAD = 64  # images prepared while one is written


def shard_members(path: Path, plan: PackPlan, number: int) -> list[Member] | None:
    """The images of a complete shard, in order; None if there is none.

    Raises:
        DataError: there is a tar that is not the planned one.
    """
    if not path.exists():
        return None
    members = list_members(path)
    expected = [name for row in _rows(plan, number) for name in _names(plan, row)]
    if [os.fsdecode(member.name) for member in members] != expected:
        raise DataError(f"{path}: holds other images than were packed; remove it and pack again")
    return members[::2]


def write_shard(
    path: Path,
    plan: PackPlan,
    number: int,
    quality: int,
    pool: ThreadPoolExecutor,
    tick: Callable[[int], None],
    keep: Callable[[int, list[int]], None],
) -> None:
    """Write a shard beside its place and rename it when it is complete and on the disk.

    `tick` is called with the number of images of this shard that are written, `keep` with the
    shard's number and its images' CRC-32 before the shard gets its name.

    Raises:
        DataError: an image is missing, has changed, or has to be made smaller and is damaged.
        OSError: the disk is full, or the place cannot be written.
    """
    rows, sums = _rows(plan, number), []
    with published(path) as unfinished:
        with tarfile.open(unfinished, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for done, (row, content) in enumerate(_prepare(pool, plan, quality, rows), 1):
                image, label = _names(plan, row)
                sums.append(zlib.crc32(content))
                _add(tar, image, content)
                _add(tar, label, str(plan.index.labels[row]).encode())
                tick(done)
        keep(number, sums)


def _rows(plan: PackPlan, number: int) -> range:
    return range(*plan.bounds[number])


def _names(plan: PackPlan, row: int) -> tuple[str, str]:
    """Member names of an image and its label, one key in WebDataset's eyes."""
    name = plan.names[row]
    return name, name.rpartition(".")[0] + _LABEL


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # Neither time nor owner: the same images give the same bytes.
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _prepare(
    pool: ThreadPoolExecutor, plan: PackPlan, quality: int, rows: Iterable[int]
) -> Iterator[tuple[int, bytes]]:
    """Row and packed image, in order, prepared a bounded number ahead."""
    started: deque[tuple[int, Future[bytes]]] = deque()
    coming = iter(rows)
    try:
        while True:
            for row in islice(coming, _AHEAD - len(started)):
                started.append((row, pool.submit(_packed, plan, quality, row)))
            if not started:
                return
            done, job = started.popleft()
            yield done, job.result()
    finally:
        for _, job in started:
            job.cancel()


def _packed(plan: PackPlan, quality: int, row: int) -> bytes:
    (source,) = plan.index.ranges([row])
    try:
        data = read_image(source)
        if len(data) != plan.index.num_bytes[row]:
            raise DataError(
                f"{source.name}: changed since it was indexed; look at all images again with "
                "ixt data index DIR --rebuild"
            )
        if not plan.shrinks[row]:
            return data.tobytes()
        height, width = plan.sizes[row].tolist()
        return _encode(source, data, (width, height), quality)
    except DamagedImage as error:
        raise DataError(f"{error}; fix or remove it, then pack again") from error


def _encode(source: ByteRange, data: Bytes, size: tuple[int, int], quality: int) -> bytes:
    image = decode_with_pillow(source, data).resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
