"""`ixt data pack`: a set as plain tars that any tool reads, with the index that training maps.

Whatever ends a packing, the shards that are there are whole, and the same command continues behind
them.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from ixt.errors import DataError
from ixt.files import local_path, reason
from ixt.images.hold_out import own_splits
from ixt.images.index import load_index
from ixt.images.index_table import Table, join_paths
from ixt.images.progress_lines import Report
from ixt.storage.urls import is_remote
from ixt.tools.pack.layout import PackOptions, PackPlan, plan_pack
from ixt.tools.pack.places import Bucket, Folder, Place
from ixt.tools.pack.shard import Shard, write_shard
from ixt.tools.pack.uncompressed import uncompressed


@dataclass(frozen=True)
class PackSummary:
    """What lies in a packed set."""

    root: Any
    """The folder, as a Path, or the URL to give to `--data`."""
    num_images: int
    num_shards: int
    num_written: int
    """Shards that this call wrote; 0 where the set was complete."""
    num_shrunk: int
    """Images that were made smaller; all others are byte for byte what they were."""
    num_unreadable: int
    """Images that were no readable images before, packed as they are."""
    num_bytes: int
    """Length of all shards."""


def pack(
    source: str | Path,
    out: str | Path,
    options: PackOptions,
    *,
    num_threads: int | None = None,
    report: Report = lambda done, total: None,
) -> PackSummary:
    """Pack the images of a set, train and val if it has both, or continue a packing.

    The same images and options give the same bytes, whatever layout the images come in, on any
    number of threads, in a folder or in a bucket. The images keep their order, so a run sees the
    same samples. The index holds a CRC-32 of each image, taken before the image is written; shards
    of an earlier release, of which none is known, are written anew.

    `source` is in any layout that `load_index` reads, or, for a folder, parquet files whose images
    are compressed; `out` is a folder or the URL of a place in a bucket: new or empty, or an earlier
    packing of the same images. `report` is called with (images done, images in all).

    Raises:
        DataError: source cannot be read, an image is missing, out holds something else, or the
            disk is too small or full.
        StorageError: the bucket cannot be written.
    """
    splits = own_splits(str(source))
    place: Place
    copied: AbstractContextManager[str | Path]
    if is_remote(str(out)):
        out = str(out).rstrip("/")
        place, disk, copied = Bucket(out), Path(tempfile.gettempdir()), nullcontext(source)
    else:
        out = disk = local_path(out)
        place, copied = Folder(out), uncompressed(source, out, splits)
    with _writing(disk), copied as readable:
        plans = [plan_pack(load_index(readable, split), split, options) for split in splits]
        num_written, num_bytes = _write(place, plans, options, num_threads, report)
    return PackSummary(
        root=out,
        num_images=sum(len(plan.names) for plan in plans),
        num_shards=sum(len(plan.bounds) for plan in plans),
        num_written=num_written,
        num_shrunk=sum(int(plan.shrinks.sum()) for plan in plans),
        num_unreadable=sum(len(plan.index.unreadable) for plan in plans),
        num_bytes=num_bytes,
    )


def _write(
    place: Place,
    plans: list[PackPlan],
    options: PackOptions,
    num_threads: int | None,
    report: Report,
) -> tuple[int, int]:
    """Write what is missing; the number of shards written, and the length of all shards."""
    total, done, num_written, num_bytes = sum(len(plan.names) for plan in plans), 0, 0, 0
    with (
        place.claimed(plans, _settings(plans, options)),
        ThreadPoolExecutor(num_threads or os.cpu_count()) as pool,
    ):
        for plan in plans:
            shards = []
            for number in range(len(plan.bounds)):
                shard = place.find(plan, number)
                if shard is None:

                    def tick(count: int, done: int = done) -> None:
                        report(done + count, total)

                    fill = partial(
                        write_shard,
                        plan=plan,
                        number=number,
                        quality=options.quality,
                        pool=pool,
                        tick=tick,
                    )
                    shard = place.write(plan, number, fill)
                    num_written += 1
                shards.append(shard)
                done += len(shard.members)
                num_bytes += shard.stamp.size
                report(done, total)
            place.finish(plan, _table(plan, shards))
    return num_written, num_bytes


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Say in one line that the disk is full, or what else keeps files from being written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{out}: {reason(error)}; make room and give the same command again, it "
                "continues behind the shards that are complete"
            ) from error
        raise DataError(f"{error.filename or out}: cannot be written ({reason(error)})") from error


def _settings(plans: list[PackPlan], options: PackOptions) -> str:
    """What decides on the bytes of a packed set; kept beside it."""
    settings = {
        **asdict(options),
        # Another release may encode to other bytes.
        "pillow": PIL.__version__ if any(plan.shrinks.any() for plan in plans) else None,
        "images": {plan.split: plan.digest() for plan in plans},
    }
    return json.dumps(settings, indent=1) + "\n"


def _table(plan: PackPlan, shards: list[Shard]) -> Table:
    """The index of a split's shards."""
    members = [member for shard in shards for member in shard.members]
    blob, path_offsets = join_paths([member.name for member in members])
    counts = [len(shard.members) for shard in shards]
    return Table(
        classes=plan.index.classes,
        folders={},
        columns={
            "labels": plan.index.labels,
            "sizes": plan.sizes,
            "num_bytes": np.array([member.size for member in members], np.int64),
            "formats": plan.formats,
            "path_blob": blob,
            "path_offsets": path_offsets,
            "shard_numbers": np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            "shard_offsets": np.array([member.offset for member in members], np.int64),
            "crc32": np.array([crc32 for shard in shards for crc32 in shard.crc32], np.uint32),
        },
        shards=tuple(shard.stamp for shard in shards),
    )
