"""Write one shard: images read, made smaller where asked for, and stored with their labels."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ixt.errors import DataError
from ixt.images.byte_ranges import ByteRange, Bytes
from ixt.images.image import DamagedImage, decode_with_pillow, read_image
from ixt.images.index_table import Table
from ixt.images.shards import Stamp, stamp
from ixt.images.tar_walk import Member
from ixt.images.tars import list_members
from ixt.tools.pack.layout import PackPlan

_LABEL = ".cls"
_AHEAD = 64  # images prepared while one is written


class Shard(NamedTuple):
    """What the index says of a shard that is written."""

    stamp: Stamp
    """Without a time, which changes when the set is copied."""
    members: list[Member]
    """Its images, in order."""
    crc32: list[int]
    """That of each image's bytes."""

    def encode(self) -> bytes:
        """All of it as JSON."""
        members = [(os.fsdecode(name), offset, size) for name, offset, size in self.members]
        return json.dumps([self.stamp, members, self.crc32]).encode()

    @classmethod
    def decode(cls, content: bytes) -> Shard:
        """What `encode` gave.

        Raises:
            ValueError: it is cut off.
        """
        found: Any = json.loads(content)
        members = [Member(os.fsencode(name), offset, size) for name, offset, size in found[1]]
        return cls(Stamp(*found[0]), members, found[2])

    @classmethod
    def of_table(cls, table: Table, number: int, rows: slice) -> Shard:
        """What an index with checksums says of the shard that holds these rows."""
        columns = table.columns
        bounds = columns["path_offsets"][rows.start : rows.stop + 1].tolist()
        names = [bytes(columns["path_blob"][start:end]) for start, end in pairwise(bounds)]
        numbers = (columns[name][rows].tolist() for name in ("shard_offsets", "num_bytes"))
        members = [Member(*member) for member in zip(names, *numbers, strict=True)]
        return cls(table.shards[number], members, columns["crc32"][rows].tolist())


def shard_members(path: Path, plan: PackPlan, number: int) -> list[Member]:
    """The images of a complete shard, in order.

    Raises:
        DataError: the tar is not the planned one.
    """
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
) -> Shard:
    """Write a shard to a local file.

    `tick` is called with the number of images of this shard that are written.

    Raises:
        DataError: an image is missing, has changed, or has to be made smaller and is damaged.
        OSError: the disk is full, or the file cannot be written.
    """
    rows, sums = _rows(plan, number), []
    with tarfile.open(path, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for done, (row, content) in enumerate(_prepare(pool, plan, quality, rows), 1):
            image, label = _names(plan, row)
            sums.append(zlib.crc32(content))
            _add(tar, image, content)
            _add(tar, label, str(plan.index.labels[row]).encode())
            tick(done)
    own = stamp(path)._replace(name=plan.shard_name(number), mtime_ns=0)
    return Shard(own, shard_members(path, plan, number), sums)


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
