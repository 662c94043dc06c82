"""Pack a set into a bucket: shard by shard through a local file, the index last.

The bytes are those of a packing on a disk. Beside each shard lies a hidden object that says what is
in it, so the same command continues behind what was uploaded. Two machines that pack the same
images write the same bytes, so they cannot harm each other; with other options, or other images,
only the first of them gets the place.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ixt.errors import DataError
from ixt.images.hold_out import own_splits
from ixt.images.index import load_index
from ixt.images.progress_lines import Report
from ixt.images.shards import INDEX_FOLDER, PACK_SETTINGS, Stamp, stamp
from ixt.images.table_files import encode_table
from ixt.images.tar_walk import Member
from ixt.storage.objects import (
    RemoteFile,
    create_object,
    list_objects,
    read_object,
    write_file,
    write_object,
)
from ixt.storage.urls import REMOTE_FORMS, is_remote
from ixt.tools.pack.layout import PackOptions, PackPlan, plan_pack
from ixt.tools.pack.pack import PackSummary, packed_table, settings_of, summary, writing
from ixt.tools.pack.shard import shard_members, write_shard


@dataclass(frozen=True)
class _Shard:
    """What the index says of an uploaded shard."""

    stamp: Stamp
    members: list[Member]
    crc32: list[int]

    def encode(self) -> bytes:
        members = [(os.fsdecode(name), offset, size) for name, offset, size in self.members]
        return json.dumps([self.stamp, members, self.crc32]).encode()


def _decode(content: bytes) -> _Shard:
    found: Any = json.loads(content)
    members = [Member(os.fsencode(name), offset, size) for name, offset, size in found[1]]
    return _Shard(Stamp(*found[0]), members, found[2])


def pack_to_bucket(
    source: str | Path,
    url: str,
    options: PackOptions,
    *,
    num_threads: int | None = None,
    report: Report = lambda done, total: None,
) -> PackSummary[str]:
    """Pack the train and val images of a set below a URL, or continue to.

    A shard lies in the folder for temporary files (TMPDIR) until it is uploaded.

    Nothing lies at `url`, or an earlier packing of the same images; the rest is as for `pack`.

    Raises:
        DataError: source cannot be read, an image is missing, other things lie there, or the disk
            is full.
        StorageError: the bucket cannot be written.
    """
    url = url.rstrip("/")
    if not is_remote(url):
        raise DataError(f"--to: {url}: is not the URL of a bucket; give one as {REMOTE_FORMS}")
    there = list_objects(url)
    splits = own_splits(str(source))
    plans = [plan_pack(load_index(source, split), split, options) for split in splits]
    _claim(url, there, settings_of(plans, options).encode())
    total, done, written, num_bytes = sum(len(plan.names) for plan in plans), 0, 0, 0
    with (
        tempfile.TemporaryDirectory(prefix="ixt-pack-") as staging,
        writing(Path(staging)),
        ThreadPoolExecutor(num_threads or os.cpu_count()) as pool,
    ):
        for plan in plans:
            shards = []
            for number in range(len(plan.bounds)):
                shard = _uploaded(url, there, plan, number)
                if shard is None:

                    def tick(count: int, done: int = done) -> None:
                        report(done + count, total)

                    path = Path(staging) / plan.shard_name(number)
                    sums: list[int] = []
                    keep = lambda _, new, sums=sums: sums.extend(new)  # noqa: E731
                    write_shard(path, plan, number, options.quality, pool, tick, keep)
                    shard = _upload(url, plan, number, path, sums)
                    written += 1
                shards.append(shard)
                done += len(shard.members)
                num_bytes += shard.stamp.size
                report(done, total)
            _write_index(url, plan, shards)
    return summary(url, plans, written, num_bytes)


def _claim(url: str, there: dict[str, RemoteFile], settings: bytes) -> None:
    """Make the place a packing with these settings; it is written before any image is read."""
    if there and PACK_SETTINGS not in there:
        raise DataError(f"{url}: is not empty and no packed set; choose a new place")
    place = f"{url}/{PACK_SETTINGS}"
    if not create_object(place, settings) and read_object(place) != settings:
        raise DataError(
            f"{url}: was packed from other images or with other options (see {PACK_SETTINGS}); "
            "choose a new place, or delete this one"
        )


def _facts_name(plan: PackPlan, number: int) -> str:
    return f"{plan.split}/.{plan.shard_name(number)}.json"


def _uploaded(url: str, there: dict[str, RemoteFile], plan: PackPlan, number: int) -> _Shard | None:
    """What an earlier call uploaded, if it is all there."""
    tar = there.get(f"{plan.split}/{plan.shard_name(number)}")
    name = _facts_name(plan, number)
    if tar is None or name not in there:
        return None
    shard = _decode(read_object(f"{url}/{name}"))
    return shard if shard.stamp.size == tar.size else None


def _upload(url: str, plan: PackPlan, number: int, path: Path, sums: list[int]) -> _Shard:
    members = shard_members(path, plan, number)
    assert members is not None
    shard = _Shard(stamp(path)._replace(mtime_ns=0), members, sums)
    write_file(path, f"{url}/{plan.split}/{path.name}")
    write_object(f"{url}/{_facts_name(plan, number)}", shard.encode())
    path.unlink()
    return shard


def _write_index(url: str, plan: PackPlan, shards: Sequence[_Shard]) -> None:
    """Write the index, its meta.json last; a repeated command reads what stands beside the tars."""
    members = [member for shard in shards for member in shard.members]
    sums = np.array([crc32 for shard in shards for crc32 in shard.crc32], np.uint32)
    table = packed_table(plan, members, sums, tuple(shard.stamp for shard in shards))
    for name, content in encode_table(table).items():
        write_object(f"{url}/{plan.split}/{INDEX_FOLDER}/{name}", content)
