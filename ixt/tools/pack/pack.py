"""`ixt data pack`: a set as plain tars that any tool reads, with the index that training maps.

Whatever ends a packing, the shards that are there are whole, and the same command continues behind
them.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray

from ixt.errors import DataError
from ixt.files import local_path, reason, size_text
from ixt.images.folders import Split
from ixt.images.hold_out import own_splits
from ixt.images.index import load_index
from ixt.images.index_cache import save_packed_table
from ixt.images.index_table import Table, join_paths
from ixt.images.progress_lines import Report
from ixt.images.shards import INDEX_FOLDER, PACK_SETTINGS, Stamp, stamp
from ixt.images.tar_walk import Member
from ixt.tools.pack.checksums import Checksums
from ixt.tools.pack.layout import PackOptions, PackPlan, plan_pack
from ixt.tools.pack.shard import shard_members, write_shard
from ixt.tools.pack.uncompressed import uncompressed

Place = TypeVar("Place", Path, str)


@dataclass(frozen=True)
class PackSummary(Generic[Place]):
    """What lies in a packed set."""

    root: Place
    """The folder or the URL to give to `--data`."""
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
) -> PackSummary[Path]:
    """Pack the images of a set, train and val if it has both, or continue a packing.

    The same images and options give the same bytes, whatever layout the images come in, on any
    number of threads. The images keep their order, so a run sees the same samples. The index
    holds a CRC-32 of each image, taken before the image is written; shards of an earlier release,
    of which none is known, are written anew.

    `source` is in any layout that `load_index` reads, or parquet files whose images are compressed;
    `out` is new or empty, or an earlier packing of the same images. `report` is called with (images
    done, images in all).

    Raises:
        DataError: source cannot be read, an image is missing, out holds something else, or the
            disk is too small or full.
    """
    out = local_path(out)
    splits = own_splits(str(source))
    with writing(out), uncompressed(source, out, splits) as readable:
        return _pack(readable, out, splits, options, num_threads, report)


def _pack(
    source: str | Path,
    out: Path,
    splits: Sequence[Split],
    options: PackOptions,
    num_threads: int | None,
    report: Report,
) -> PackSummary[Path]:
    plans = [plan_pack(load_index(source, split), split, options) for split in splits]
    total, written, done = sum(len(plan.names) for plan in plans), 0, 0
    with (
        writing(out),
        _claim(out, settings_of(plans, options)),
        ThreadPoolExecutor(num_threads or os.cpu_count()) as pool,
    ):
        _check_space(out, plans)
        for plan in plans:
            _sweep(out / plan.split)
            members: list[Member] = []
            sums = Checksums(out / plan.split, plan)
            for number, path in enumerate(_shard_paths(out, plan)):
                found = shard_members(path, plan, number)
                if found is None or not sums.are_known(number):

                    def tick(count: int, done: int = done) -> None:
                        report(done + count, total)

                    write_shard(path, plan, number, options.quality, pool, tick, sums.keep)
                    found = shard_members(path, plan, number)
                    written += 1
                assert found is not None
                members += found
                done += len(found)
                report(done, total)
            stamps = tuple(stamp(path)._replace(mtime_ns=0) for path in _shard_paths(out, plan))
            table = packed_table(plan, members, sums.all(), stamps)
            save_packed_table(out / plan.split / INDEX_FOLDER, table)
            sums.remove_files()
    paths = (path for plan in plans for path in _shard_paths(out, plan))
    return summary(out, plans, written, sum(path.stat().st_size for path in paths))


def summary(
    root: Place, plans: list[PackPlan], num_written: int, num_bytes: int
) -> PackSummary[Place]:
    """What lies in a packed set."""
    return PackSummary(
        root=root,
        num_images=sum(len(plan.names) for plan in plans),
        num_shards=sum(len(plan.bounds) for plan in plans),
        num_written=num_written,
        num_shrunk=sum(int(plan.shrinks.sum()) for plan in plans),
        num_unreadable=sum(len(plan.index.unreadable) for plan in plans),
        num_bytes=num_bytes,
    )


@contextmanager
def writing(out: Path) -> Iterator[None]:
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


def settings_of(plans: list[PackPlan], options: PackOptions) -> str:
    """What decides on the bytes of a packed set; kept beside it."""
    settings = {
        **asdict(options),
        # Another release may encode to other bytes.
        "pillow": PIL.__version__ if any(plan.shrinks.any() for plan in plans) else None,
        "images": {plan.split: plan.digest() for plan in plans},
    }
    return json.dumps(settings, indent=1) + "\n"


@contextmanager
def _claim(out: Path, settings: str) -> Iterator[None]:
    """Make the folder a packing with these settings, for this process alone.

    Raises:
        DataError: it holds anything else, or another process packs into it.
        OSError: it cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / PACK_SETTINGS
    if not file.exists() and any(out.iterdir()):
        raise DataError(f"{out}: is not empty and no packed set; choose a new folder")
    with open(file, "a+") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{out}: another process packs into it; wait for it") from error
        marker.seek(0)
        found = marker.read()
        # Nothing is lost with the settings of a packing that got nowhere, for lack of room.
        if found not in ("", settings) and any(out.glob("*/[!.]*.tar")):
            raise DataError(
                f"{out}: was packed from other images or with other options (see {PACK_SETTINGS}); "
                "choose a new folder, or remove this one"
            )
        if found != settings:
            marker.truncate(0)
            marker.write(settings)
            marker.flush()
        yield


def _check_space(out: Path, plans: list[PackPlan]) -> None:
    missing = 0
    for plan in plans:
        (out / plan.split).mkdir(exist_ok=True)
        for path, (start, end) in zip(_shard_paths(out, plan), plan.bounds, strict=True):
            if not path.exists():
                missing += int(plan.expected_bytes[start:end].sum())
    free = shutil.disk_usage(out).free
    if missing > free:
        raise DataError(
            f"{out}: needs about {size_text(missing)} and the disk has {size_text(free)} left; "
            "make room, choose another disk, or make images smaller with --max-side"
        )


def _sweep(folder: Path) -> None:
    """Remove what a packing that was killed had begun to write."""
    for left in folder.glob(".tmp-*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def _shard_paths(out: Path, plan: PackPlan) -> list[Path]:
    return [out / plan.split / plan.shard_name(number) for number in range(len(plan.bounds))]


def packed_table(
    plan: PackPlan, members: list[Member], crc32: NDArray[np.uint32], stamps: tuple[Stamp, ...]
) -> Table:
    """The index of a split's shards.

    `crc32` is (n,), of the images' bytes; `stamps` of the shards have no times, for these change
    when the set is copied.
    """
    blob, path_offsets = join_paths([member.name for member in members])
    counts = [end - start for start, end in plan.bounds]
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
            "crc32": crc32,
        },
        shards=stamps,
    )
