"""Checks of the disks: the data's speed, the run folder's room."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch

from ixt.bench.doctor.result import Result, fail, judge, warn
from ixt.errors import DataError
from ixt.files import as_url, local_path, reason
from ixt.images.byte_ranges import ByteRange, read_bytes
from ixt.images.folders import IMAGE_SUFFIXES, Place
from ixt.images.index import load_index
from ixt.images.shard_bytes import length_of
from ixt.images.shards import find_layout

_GIB = 2**30
_NUM_LISTED, _NUM_READ, _READ_S, _THREADS = 5000, 256, 2.0, 8
_WRITTEN = 32 * 2**20
_PART = 110_000  # bytes; the mean of ImageNet-1k's images


def check_data(root: str) -> Result:
    """Read a few hundred training images as the decoder would, past the page cache.

    They are files, parts of tars, or parts of objects in a bucket.
    """
    try:
        chosen = _choose(root)
    except (DataError, OSError) as error:
        return Result("fail", str(error), "give --data the folder that holds train/ and val/")
    if not chosen:
        fix = "see `ixt data --help` for how to get them"
        return Result("fail", f"{root}: no images in train/", fix)
    start_s = time.perf_counter()
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = [*filter(None, pool.map(lambda part: _read(part, start_s + _READ_S), chosen))]
    elapsed_s = time.perf_counter() - start_s
    return judge_reading(len(sizes) / elapsed_s, sum(sizes) / elapsed_s, torch.cuda.device_count())


def judge_reading(files_per_s: float, bytes_per_s: float, num_gpus: int) -> Result:
    """Judge random reads against what GPUs take: some 2,000 images/s each."""
    return judge(
        f"{files_per_s:,.0f} images/s, {bytes_per_s / 1e6:,.0f} MB/s, random, {_THREADS} threads",
        warn(
            files_per_s < max(100, 2000 * num_gpus),
            "the disk may bound training: copy the data to a local SSD or to memory",
        ),
    )


def check_run_folder(run_dir: Path) -> Result:
    """Room, file entries and write speed where runs go."""
    if run_dir.exists() and not run_dir.is_dir():
        return Result("fail", f"{run_dir}: is a file", "give --run-dir a folder")
    folder = next(parent for parent in (run_dir, *run_dir.resolve().parents) if parent.is_dir())
    entries, free = os.statvfs(folder), shutil.disk_usage(folder).free
    try:
        speed = _write(folder) if free > 2 * _WRITTEN else 0.0
    except OSError as error:
        fix = f"allow writing to {folder}, or give --run-dir another folder"
        return Result("fail", f"{folder}: {reason(error)}", fix)
    return judge_room(str(folder), free, entries.f_favail if entries.f_files else None, speed)


def judge_room(folder: str, free: float, entries: int | None, speed: float) -> Result:
    """Judge bytes free, file entries free (None: not counted) and bytes/s written."""
    few = entries is not None and entries < 10_000
    value = f"{folder}: {free / _GIB:.1f} GiB free, writes {speed / 1e6:,.0f} MB/s"
    room = "make room, give --run-dir another disk, or lower run.keep_last and run.keep_best"
    return judge(
        value + (f", {entries:,} file entries free" if few else ""),
        fail(few and (entries or 0) < 100, "delete files: entries run out"),
        warn(few, "delete files: entries run out"),
        fail(free < 2 * _GIB, room),
        warn(free < 20 * _GIB, room),
        warn(speed < 20e6, "checkpoints will stall training: use a faster disk"),
    )


def _choose(root: str) -> list[ByteRange]:
    """Images all over a training set, found without opening one where that is possible."""
    rng = random.Random(0)
    if as_url(root) is not None:
        return _of_index(root, rng)
    layout = find_layout(local_path(root), "train")
    if layout.list_name:
        return _of_index(root, rng)
    if layout.tars:
        return [_part(tar, rng) for tar in rng.choices(layout.tar_paths, k=_NUM_READ)]
    files = list(islice(_images(layout.folder, rng), _NUM_LISTED))
    return [ByteRange(file) for file in rng.sample(files, min(_NUM_READ, len(files)))]


def _of_index(root: str, rng: random.Random) -> list[ByteRange]:
    index = load_index(root, "train")
    return index.ranges(rng.sample(range(len(index)), min(_NUM_READ, len(index))))


def _part(tar: Place, rng: random.Random) -> ByteRange:
    """Any part as long as an image will do: listing a tar may take minutes."""
    length = length_of(tar)
    return ByteRange(str(tar), rng.randrange(max(1, length - _PART)), min(_PART, length))


def _images(folder: Path, rng: random.Random) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        rng.shuffle(folders)  # so that the first few thousand files lie all over
        yield from (os.path.join(parent, n) for n in names if n.lower().endswith(IMAGE_SUFFIXES))


def _read(source: ByteRange, end_s: float) -> int:
    """Bytes of an image, read from the disk where the system lets go of its pages; 0 when late."""
    if time.perf_counter() > end_s:
        return 0
    if not source.is_remote:
        with open(source.path, "rb") as file:
            advice = os.POSIX_FADV_DONTNEED
            os.posix_fadvise(file.fileno(), source.offset, source.size or 0, advice)
    return len(read_bytes(source))


def _write(folder: Path) -> float:
    """Bytes per second written and synchronised, as a checkpoint is."""
    block = os.urandom(_WRITTEN)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".ixt-doctor-") as file:
        start_s = time.perf_counter()
        file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return _WRITTEN / (time.perf_counter() - start_s)
