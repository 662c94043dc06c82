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

from ixt.doctor.check import Result
from ixt.errors import DataError
from ixt.files import as_url
from ixt.images.byte_ranges import ByteRange, read_bytes
from ixt.images.folders import IMAGE_SUFFIXES
from ixt.images.index import load_index
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
        chosen = _chosen(root)
    except (DataError, OSError) as error:
        return Result("fail", str(error), "give --data the folder that holds train/ and val/")
    if not chosen:
        fix = "see `ixt data --help` for how to get them"
        return Result("fail", f"{root}: no images in train/", fix)
    start_s = time.perf_counter()
    end_s = start_s + _READ_S
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = [size for size in pool.map(lambda source: _read(source, end_s), chosen) if size]
    elapsed_s = time.perf_counter() - start_s
    return judge_reading(len(sizes) / elapsed_s, sum(sizes) / elapsed_s, torch.cuda.device_count())


def judge_reading(files_per_s: float, bytes_per_s: float, num_gpus: int) -> Result:
    """Judge random reads against what GPUs take: some 2,000 images/s each."""
    value = (
        f"{files_per_s:,.0f} images/s, {bytes_per_s / 1e6:,.0f} MB/s, random, {_THREADS} threads"
    )
    if files_per_s < 2000 * num_gpus or files_per_s < 100:
        fix = "the disk may bound training: copy the data to a local SSD or to memory"
        return Result("warn", value, fix)
    return Result("ok", value)


def check_run_folder(run_dir: Path) -> Result:
    """Room, file entries and write speed where runs go."""
    if run_dir.exists() and not run_dir.is_dir():
        return Result("fail", f"{run_dir}: is a file", "give --run-dir a folder")
    folder = next(parent for parent in (run_dir, *run_dir.resolve().parents) if parent.is_dir())
    entries = os.statvfs(folder)
    free = shutil.disk_usage(folder).free
    if free < 2 * _WRITTEN:
        return judge_room(str(folder), free, entries.f_favail, entries.f_files, 0.0)
    try:
        speed = _write(folder)
    except OSError as error:
        fix = f"allow writing to {folder}, or give --run-dir another folder"
        return Result("fail", f"{folder}: {error.strerror}", fix)
    return judge_room(str(folder), free, entries.f_favail, entries.f_files, speed)


def judge_room(folder: str, free: float, inodes: int, all_inodes: int, speed: float) -> Result:
    """Judge bytes free, file entries free (0 of 0: not counted) and bytes/s written."""
    value = f"{folder}: {free / _GIB:.1f} GiB free, writes {speed / 1e6:,.0f} MB/s"
    fix = "make room, give --run-dir another disk, or lower run.keep_last and run.keep_best"
    if all_inodes and inodes < 10_000:
        value += f", {inodes:,} file entries free"
        return Result("fail" if inodes < 100 else "warn", value, "delete files: entries run out")
    if free < 2 * _GIB:
        return Result("fail", value, fix)
    if free < 20 * _GIB:
        return Result("warn", value, fix)
    if speed < 20e6:
        return Result("warn", value, "checkpoints will stall training: use a faster disk")
    return Result("ok", value)


def _chosen(root: str) -> list[ByteRange]:
    """Images all over a training set, found without opening one."""
    rng = random.Random(0)
    if as_url(root) is not None:
        index = load_index(root, "train")
        return index.ranges(rng.sample(range(len(index)), min(_NUM_READ, len(index))))
    layout = find_layout(Path(root).expanduser().absolute(), "train")
    if layout.tars:
        # Any part as long as an image will do: listing a tar may take minutes.
        lengths = {str(path): path.stat().st_size for path in layout.tar_paths}
        tars = rng.choices(list(lengths), list(lengths.values()), k=_NUM_READ)
        return [
            ByteRange(tar, rng.randrange(max(1, lengths[tar] - _PART)), min(_PART, lengths[tar]))
            for tar in tars
        ]
    files = list(islice(_images(layout.folder), _NUM_LISTED))
    return [ByteRange(file) for file in rng.sample(files, min(_NUM_READ, len(files)))]


def _images(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        # Classes come in random order, so that the first few thousand files lie all over.
        random.Random(0).shuffle(folders)
        yield from (
            os.path.join(parent, name) for name in names if name.lower().endswith(IMAGE_SUFFIXES)
        )


def _read(source: ByteRange, end_s: float) -> int:
    """Bytes of an image, read from the disk where the system lets go of its pages; 0 when late."""
    if time.perf_counter() > end_s:
        return 0
    if not source.is_remote:
        descriptor = os.open(source.path, os.O_RDONLY)
        try:
            advice = os.POSIX_FADV_DONTNEED
            os.posix_fadvise(descriptor, source.offset, source.size or 0, advice)
        finally:
            os.close(descriptor)
    return len(read_bytes(source))


def _write(folder: Path) -> float:
    """Bytes per second written and synchronised, as a checkpoint is."""
    block = os.urandom(2**20)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".ixt-doctor-") as file:
        start_s = time.perf_counter()
        for _ in range(_WRITTEN // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return _WRITTEN / (time.perf_counter() - start_s)
