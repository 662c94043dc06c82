"""A split's images as columns, and whether the values in them can be true."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixt.images.folders import Listing
from ixt.images.headers import Headers, ImageFormat
from ixt.images.shards import Stamp

COLUMNS: dict[str, type[np.generic]] = {
    "labels": np.int32,
    "sizes": np.int32,
    "num_bytes": np.int64,
    "formats": np.uint8,
    "path_blob": np.uint8,
    "path_offsets": np.int64,
    "shard_numbers": np.int32,
    "shard_offsets": np.int64,
    "crc32": np.uint32,
}

TAR_RULES = {"tars": 2}
"""In place of folders, in a cached table of tars: by which rules they were listed. The first rules
treated each WebDataset shard as a class, so their tables are built anew."""

_TAR_BLOCK = 512
# The largest JPEG; Pillow opens no larger image of another format.
_MAX_PIXELS = 65535**2
_WORD = 8
_ODD = np.uint64(0x9E3779B97F4A7C15)  # of 64-bit Fibonacci hashing


class UnusableTable(Exception):
    """A table is damaged or of another version: the message names the file in it and says why."""


@dataclass(frozen=True)
class Table:
    """A split's images as columns, and the state of the folders or tars they were found in."""

    classes: tuple[str, ...]
    """Names of the class folders, sorted."""
    folders: dict[str, int]
    """Modification time (ns) of the split's folder (key "") and of each folder below it, or of a
    list (behind LIST_MARK) and of its images' folders; TAR_RULES where images lie in tars, empty
    in a packed set."""
    columns: dict[str, NDArray[Any]]
    """The arrays of `ixt.images.index.Index`, by name."""
    shards: tuple[Stamp, ...] = ()
    """The tars, in the order of their numbers; empty where images are files."""

    @property
    def has_checksums(self) -> bool:
        """Whether the bytes of each image can be verified."""
        return len(self.columns["crc32"]) > 0


def join_paths(files: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pack paths into one blob and the (n + 1,) offsets that find them in it."""
    offsets = np.zeros(len(files) + 1, np.int64)
    np.cumsum([len(file) for file in files], out=offsets[1:])
    return np.frombuffer(b"".join(files), np.uint8), offsets


def make_table(
    listing: Listing, headers: Headers, folders: dict[str, int], stamps: tuple[Stamp, ...]
) -> Table:
    """The table of listed images whose headers were read, without checksums."""
    path_blob, path_offsets = join_paths(listing.names)
    columns: dict[str, NDArray[Any]] = {
        "labels": np.repeat(np.arange(len(listing.counts), dtype=np.int32), listing.counts),
        "sizes": headers.sizes,
        "num_bytes": headers.num_bytes,
        "formats": headers.formats,
        "path_blob": path_blob,
        "path_offsets": path_offsets,
        "shard_numbers": listing.shards,
        "shard_offsets": listing.offsets,
        "crc32": np.zeros(0, np.uint32),
    }
    return Table(listing.classes, folders, columns, stamps)


def check_table(table: Table, *, packed: bool) -> None:
    """Refuse a table with a value that no image set has; 1.28 million rows take 0.5 s.

    Args:
        table: its classes and tars have the right types; its columns may hold anything.
        packed: `ixt data pack` wrote it, so each name begins with the class and occurs once.

    Raises:
        UnusableTable: the message names the column and says what is wrong with it.
    """
    _check_shapes(table)
    _check_classes(table)
    _check_images(table)
    _check_paths(table)
    if table.shards:
        _check_shards(table)
    if packed:
        _check_names(table)


def _refuse(wrong: bool | np.bool_, problem: str) -> None:
    if wrong:
        raise UnusableTable(problem)


def _check_shapes(table: Table) -> None:
    columns = table.columns
    count = columns["labels"].size
    in_shards = count if table.shards else 0
    shapes = dict.fromkeys(COLUMNS, (count,)) | {
        "sizes": (count, 2),
        "path_blob": (columns["path_blob"].size,),
        "path_offsets": (count + 1,),
        "shard_numbers": (in_shards,),
        "shard_offsets": (in_shards,),
        "crc32": (in_shards if columns["crc32"].size else 0,),
    }
    for name, dtype in COLUMNS.items():
        found = columns[name]
        wrong = found.dtype != dtype or found.shape != shapes[name] or not found.flags.c_contiguous
        _refuse(wrong, f"{name} contains an array of {found.shape} {found.dtype}")


def _check_classes(table: Table) -> None:
    names, labels = [os.fsencode(name) for name in table.classes], table.columns["labels"]
    rising = all(a < b for a, b in pairwise(names))
    _refuse(not all(names) or not rising, "the names of the classes are not sorted, or not unique")
    outside = not len(labels) or labels.min() < 0 or labels.max() >= len(names)
    _refuse(outside, f"labels contains a number outside the {len(names)} classes")
    _refuse((labels[1:] < labels[:-1]).any(), "labels is not sorted by class")


def _check_images(table: Table) -> None:
    sizes, formats = table.columns["sizes"], table.columns["formats"]
    known = np.isin(np.unique(formats), list(ImageFormat)).all()
    _refuse(not known, "formats contains a format that does not exist")
    pixels = sizes[:, 0].astype(np.int64) * sizes[:, 1]
    impossible = (sizes < 0).any() or (pixels > _MAX_PIXELS).any()
    _refuse(impossible, "sizes contains a height or width that no image has")
    readable = formats != ImageFormat.UNREADABLE
    differ = ((pixels > 0) != readable).any() or sizes[~readable].any()
    _refuse(differ, "sizes and formats disagree about which images are readable")
    _refuse((table.columns["num_bytes"] < 0).any(), "num_bytes contains a negative length")


def _check_paths(table: Table) -> None:
    blob, offsets = table.columns["path_blob"], table.columns["path_offsets"]
    ends = offsets[0] != 0 or offsets[-1] != len(blob)
    rises = (offsets[1:] > offsets[:-1]).all()
    _refuse(ends or not rises, "path_offsets does not rise from 0 to the length of path_blob")
    _refuse((blob == 0).any(), "path_blob contains a zero byte")


def _check_shards(table: Table) -> None:
    numbers, starts = table.columns["shard_numbers"], table.columns["shard_offsets"]
    num_bytes = table.columns["num_bytes"]
    outside = numbers.min() < 0 or numbers.max() >= len(table.shards)
    _refuse(outside, f"shard_numbers contains a number outside the {len(table.shards)} tars")
    lengths = np.array([shard.size for shard in table.shards], np.int64)[numbers]
    # The start of an image is compared first: the sum of both may be too large for 64 bits.
    outside = (starts < 0).any() or (starts > lengths).any() or (num_bytes > lengths - starts).any()
    _refuse(outside, "shard_offsets and num_bytes point outside a tar")
    if not all(shard.name.endswith(".tar") for shard in table.shards):
        return  # images begin anywhere in a parquet file, and equal ones may lie there once
    _refuse((starts % _TAR_BLOCK).any(), "shard_offsets contains an offset at which no file begins")
    if (numbers[1:] < numbers[:-1]).any() or (starts[1:] < starts[:-1]).any():
        order = np.lexsort((starts, numbers))
        numbers, starts, num_bytes = numbers[order], starts[order], num_bytes[order]
    overlap = starts[:-1] + np.maximum(num_bytes[:-1], 1) > starts[1:]
    overlap &= numbers[1:] == numbers[:-1]
    _refuse(overlap.any(), "shard_offsets contains images that overlap")


def _check_names(table: Table) -> None:
    labels, blob = table.columns["labels"], table.columns["path_blob"]
    offsets = table.columns["path_offsets"]
    bounds = np.searchsorted(labels, np.arange(len(table.classes) + 1))
    for number, name in enumerate(table.classes):
        prefix = np.frombuffer(os.fsencode(name) + b"/", np.uint8)
        rows = slice(bounds[number], bounds[number + 1])
        starts = offsets[:-1][rows]
        short = (offsets[1:][rows] - starts <= len(prefix)).any()
        differ = short or (blob[starts[:, None] + np.arange(len(prefix))] != prefix).any()
        _refuse(differ, f"labels and path_blob disagree about the images of class {name}")
    keys = np.sort(_name_keys(blob, offsets))
    twice = (keys[1:] == keys[:-1]).any() and _has_duplicates(blob, offsets)
    _refuse(twice, "path_blob contains the same name twice")


def _name_keys(blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(n,) a number per name, equal for equal names and by chance for hardly any others."""
    padded = np.concatenate((blob, np.zeros(_WORD, np.uint8)))
    # The eight bytes from each place on: a fifth of the work of going byte by byte.
    words = np.ndarray((len(blob) + 1,), np.uint64, padded.data, strides=(1,))
    lengths = np.diff(offsets)
    keys = lengths.astype(np.uint64)
    for done in range(0, int(lengths.max()), _WORD):
        rows = np.flatnonzero(lengths > done)
        # The bytes behind the end belong to the next name.
        behind = np.maximum(done + _WORD - lengths[rows], 0).astype(np.uint64) * np.uint64(8)
        found = words[offsets[rows] + done] << behind
        mixed = (keys[rows] ^ found) * _ODD
        keys[rows] = mixed ^ (mixed >> np.uint64(29))
    return keys


def _has_duplicates(blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> bool:
    content, ends = blob.tobytes(), offsets.tolist()
    names = {content[start:end] for start, end in pairwise(ends)}
    return len(names) < len(offsets) - 1
