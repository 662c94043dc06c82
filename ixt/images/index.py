"""The table of a split's images: where they lie, labels, sizes. Built once, then memory-mapped.

`shards` finds out how they are stored; `folders`, `lists`, `tars`, `webdataset` or `parquet`
list them, `headers` opens them, `index_cache` keeps the result, which `table_files` verifies;
`bucket_index` keeps that of a bucket.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ixt.errors import DataError
from ixt.files import reason
from ixt.images.bucket_index import load_remote_table
from ixt.images.byte_ranges import ByteRange
from ixt.images.folders import SPLIT_FOLDERS, Listing, P, Place, Split, list_images, place_of
from ixt.images.headers import (
    Headers,
    ImageFormat,
    quiet_pillow,
    read_headers,
    read_object_headers,
)
from ixt.images.index_cache import (
    current_tables,
    make_cache,
    say_once,
    set_aside,
    warn_without_checksums,
    write_table,
)
from ixt.images.index_table import TAR_RULES, Table, join_paths, make_table
from ixt.images.list_rows import SEPARATOR
from ixt.images.lists import is_list, read_list, refuse_missing
from ixt.images.parquet import PARQUET, list_parquet
from ixt.images.progress_lines import Report, report_lines
from ixt.images.shard_names import is_pattern, pattern_folder, split_of
from ixt.images.shards import INDEX_FOLDER, Layout, find_layout, stamp
from ixt.images.table_files import read_checksums
from ixt.images.tars import list_tars
from ixt.images.webdataset import are_shards, list_shards
from ixt.storage.paths import RemotePath
from ixt.storage.urls import is_remote

logger = logging.getLogger("ixt")


@dataclass(frozen=True, eq=False)
class Index:
    """One row per image, sorted by class and then by path, byte by byte.

    An image has the same row whether it is a file or lies in a tar that holds the same images. The
    arrays are read-only and usually memory-mapped: what is not touched costs no memory.
    """

    root: Path | str
    """The data root: an absolute path, or a URL."""
    folder: Path | str
    """Folder of the split's class folders, list or tars: an absolute path, or a URL."""
    classes: tuple[str, ...]
    """Names of the class folders, sorted."""
    labels: NDArray[np.int32]
    """(n,) place of the image's class in `classes`."""
    sizes: NDArray[np.int32]
    """(n, 2) height, width in pixels of the stored image, EXIF rotation not applied.

    0, 0 where the file is no readable image.
    """
    num_bytes: NDArray[np.int64]
    """(n,) length of the encoded image."""
    formats: NDArray[np.uint8]
    """(n,) ImageFormat of the content, whatever the file's name says."""
    path_blob: NDArray[np.uint8]
    """Paths relative to `folder` or names within the shard, one behind the other."""
    path_offsets: NDArray[np.int64]
    """(n + 1,) where each path starts in `path_blob`; the last one is its length."""
    shards: tuple[str, ...] = ()
    """Names of the tars in `folder`; empty where each image is a file."""
    versions: tuple[str, ...] = ()
    """Version of each tar in a bucket that is not a packed set; no other is read."""
    shard_numbers: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """(n,) place of the image's tar in `shards`; (0,) where each image is a file."""
    shard_offsets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) first byte of the image in its tar; (0,) where each image is a file."""
    crc32: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    """(n,) CRC-32 of the encoded image, verified when it is read; (0,) where none is known: only
    `ixt data pack` writes them."""
    list_name: str = ""
    """The list in `folder` that names the images, and behind a colon the split if its name does
    not say that; empty where there is none."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def place(self) -> str:
        """The split's name in messages: its folder, its list, or its first tar.

        The tar where it may lie in one folder with those of the other split.
        """
        if self.list_name:
            return f"{self.folder}/{self.list_name}"
        base = str(self.folder).rpartition("/")[2]
        is_split = any(base in names for names in SPLIT_FOLDERS.values())
        own = str(self.folder) != str(self.root) and is_split
        return f"{self.folder}/{self.shards[0]}" if self.shards and not own else str(self.folder)

    @property
    def name(self) -> str:
        """The last part of `place`; no two splits of a data root have the same."""
        return self.place.rpartition("/")[2]

    def paths(self, samples: ArrayLike) -> list[str]:
        """Names of some samples for messages: the absolute path, or `shard.tar!member`.

        Args:
            samples: (m,) sample numbers, that is row numbers of this table.
        """
        return [source.name for source in self.ranges(samples)]

    def by_path(self, samples: NDArray[np.int64], reasons: Mapping[int, str]) -> dict[str, str]:
        """The reasons given for rows of a batch, by the names of their images.

        Args:
            samples: (m,) sample numbers of the batch.
            reasons: row of the batch, below m, to words.
        """
        return {self.paths(samples[[row]])[0]: reason for row, reason in reasons.items()}

    def ranges(self, samples: ArrayLike) -> list[ByteRange]:
        """Where the bytes of some samples lie.

        Args:
            samples: (m,) sample numbers, that is row numbers of this table.
        """
        rows = np.asarray(samples, np.int64)
        starts = self.path_offsets[:-1][rows].tolist()
        ends = self.path_offsets[1:][rows].tolist()
        blob, prefix = self.path_blob.data, os.fsencode(self.folder) + b"/"
        names = [bytes(blob[start:end]) for start, end in zip(starts, ends, strict=True)]
        if not self.shards:
            # A list may name images anywhere.
            paths = [os.fsdecode(os.path.join(prefix, name)) for name in names]
            if not is_remote(str(self.folder)):
                return [ByteRange(path) for path in paths]
            lengths = self.num_bytes[rows].tolist()
            return [ByteRange(path, 0, size) for path, size in zip(paths, lengths, strict=True)]
        numbers, offsets = self.shard_numbers[rows].tolist(), self.shard_offsets[rows].tolist()
        sums = self.crc32[rows].tolist() if self.has_checksums else [None] * len(rows)
        places = zip(numbers, offsets, self.num_bytes[rows].tolist(), names, sums, strict=True)
        versions = self.versions or ("",) * len(self.shards)
        tars = [
            (f"{self.folder}/{shard}", versions[number]) for number, shard in enumerate(self.shards)
        ]
        return [
            ByteRange(tars[number][0], offset, size, os.fsdecode(name), crc, tars[number][1])
            for number, offset, size, name, crc in places
        ]

    @property
    def has_checksums(self) -> bool:
        """Whether the bytes of each image are verified when they are read."""
        return len(self.crc32) > 0

    @property
    def unreadable(self) -> NDArray[np.int64]:
        """Numbers of the samples that were no readable images when they were indexed."""
        return np.flatnonzero(self.formats == ImageFormat.UNREADABLE).astype(np.int64)


def load_index(
    root: str | Path, split: Split, *, report: Report | None = None, rebuild: bool = False
) -> Index:
    """Load the index of a split, building and caching it first where that is needed.

    A cached index is built anew when a folder or a tar of the split has changed. A file that was
    replaced in place leaves its folder unchanged and is not noticed, unless it was unreadable.

    Args:
        root: folder with train/CLASS/IMAGE and val/CLASS/IMAGE (or validation/), with tars in
            place of the class folders, with ILSVRC2012_img_train.tar, or with WebDataset shards
            that have the split in their names, or with lists train.csv and val.csv; or a list; or
            a brace pattern of shards; or the URL of any of these in a bucket.
        split: train or val.
        report: called with (done, in all) of tars, or of images that are files of their own, while
            an index is built; lines are logged if None, where that takes long.
        rebuild: look at every image again, whatever is cached here.

    Raises:
        DataError: the folder is missing, has another layout, or is not readable.
    """
    return _load(place_of(root), split, report, rebuild)


def _load(root: P, split: Split, report: Report | None, rebuild: bool) -> Index:
    try:
        layout = find_layout(root, split)
    except OSError as error:
        raise DataError(f"{root}: cannot be read ({reason(error)})") from error
    if layout.ignored:
        say_once(
            f"{root}: the images of {split} are read from {layout.folder}, not from "
            f"{layout.ignored} beside it"
        )
    if is_pattern(root):
        root = pattern_folder(root)
    elif is_list(root):
        root = layout.folder
    if isinstance(root, RemotePath):
        table = load_remote_table(root, layout, lambda: _build(layout, report), rebuild=rebuild)
        return _to_index(root, layout, table)
    if rebuild:
        set_aside(root, split)
    cached = None if rebuild else _read_cached(root, layout)
    index = cached or _build_and_cache(root, layout, report)
    if index.shards and not index.has_checksums and (layout.folder / INDEX_FOLDER).is_dir():
        warn_without_checksums(layout.folder)
    return index


def target_labels(index: Index, class_names: Sequence[str]) -> NDArray[np.int64]:
    """Output number of each sample.

    Args:
        index: the images.
        class_names: class of each model output, as `output_classes` gives it.

    Returns:
        (n,) int64, in [0, len(class_names)).

    Raises:
        DataError: the data has classes that the model does not know.
    """
    outputs = {name: number for number, name in enumerate(class_names)}
    unknown = [name for name in index.classes if name not in outputs]
    if unknown:
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise DataError(
            f"{index.place}: {len(unknown)} of {len(index.classes)} class folders are not among "
            f"the model's {len(outputs)} classes ({shown}); rename or remove them"
        )
    table = np.array([outputs[name] for name in index.classes], np.int64)
    return table[index.labels]


def _read_cached(root: Path, layout: Layout[Path]) -> Index | None:
    for table in current_tables(root, layout):
        index = _to_index(root, layout, table)
        # Repairing a file in place leaves no trace in its folder's time: look at these ones again.
        damaged = [] if layout.tars else index.paths(index.unreadable)
        found = read_headers(b"", [os.fsencode(path) for path in damaged])
        if (found.formats == ImageFormat.UNREADABLE).all():
            return index
    return None


def _build_and_cache(root: Path, layout: Layout[Path], report: Report | None) -> Index:
    if layout.folder == root:  # making the cache later would renew the listed folder's time
        make_cache(root)
    table = _build(layout, report)
    write_table(root, layout, table)
    # The mapped copy holds no memory; there is none where it could not be written.
    return _read_cached(root, layout) or _to_index(root, layout, table)


def _build(layout: Layout[P], report: Report | None) -> Table:
    folder = layout.folder
    # Before listing: a tar replaced meanwhile then differs from what is kept.
    stamps = tuple(stamp(path) for path in layout.tar_paths)
    if layout.tars:
        with quiet_pillow():
            listing = _list_layout(layout, report or _log_progress(folder, "tars"))
    else:
        listing = _list_files(layout)
    headers = _read_headers(layout, listing, report or _log_progress(folder, "images"))
    table = make_table(listing, headers, TAR_RULES if layout.tars else listing.folders, stamps)
    if layout.tars and isinstance(folder, Path):
        table.columns["crc32"] = read_checksums(folder / INDEX_FOLDER, table)
    return table


def _read_headers(layout: Layout[P], listing: Listing, report: Report) -> Headers:
    folder = layout.folder
    if layout.tars:  # read while they were listed
        formats, sizes = listing.heads[:, 0].astype(np.uint8), listing.heads[:, 1:].copy()
        return Headers(formats, sizes, listing.sizes)
    if isinstance(folder, Path):
        headers = read_headers(os.fsencode(folder), listing.names, report)
        odd = np.flatnonzero(headers.formats == ImageFormat.UNREADABLE)
        if layout.list_path:
            refuse_missing(layout.list_path, [os.fsdecode(listing.names[row]) for row in odd])
        return headers

    def source(row: int) -> ByteRange:
        place = folder / os.fsdecode(listing.names[row])
        return ByteRange(place.url, 0, place.file.size, version=place.file.version)

    return read_object_headers(len(listing.names), source, report)


def _list_files(layout: Layout[P]) -> Listing:
    """The images that are files of their own."""
    if layout.list_path is None:
        return list_images(layout.folder)
    listing, origin = read_list(layout.list_path, layout.split)
    sets = any(SEPARATOR in name for name in listing.classes)
    say_once(
        f"{layout.list_path}: {len(listing.names):,} images of {layout.split}, "
        f"{len(listing.classes)} {'sets of ' if sets else ''}classes, which are named by {origin}"
    )
    return listing


def _list_layout(layout: Layout[P], report: Report) -> Listing:
    """The images in tars or parquet files, whatever these are."""
    is_parquet = layout.tars[0].endswith(PARQUET)
    if not is_parquet and (layout.is_packed or not are_shards(layout.tar_paths)):
        return list_tars(layout.tar_paths, report, packed=layout.is_packed)
    list_all = list_parquet if is_parquet else list_shards
    listing, origin = list_all(layout.tar_paths, layout.split, report)
    say_once(
        f"{layout.folder}: {len(layout.tars)} {'parquet' if is_parquet else 'WebDataset'} "
        f"shards of {layout.split}, "
        f"{len(listing.classes)} classes, which are named by {origin}"
    )
    return listing


def _log_progress(folder: Place, noun: str) -> Report:
    """Progress lines for building a table, which may take minutes."""
    return report_lines(f"{folder}: building its index", noun, logger.warning)


def take_rows(index: Index, samples: NDArray[np.int64]) -> Index:
    """An index of these rows only, in their order."""
    blob, bounds = index.path_blob.data, index.path_offsets
    names = [bytes(blob[bounds[row] : bounds[row + 1]]) for row in samples.tolist()]
    packed, offsets = join_paths(names)
    return replace(
        index,
        labels=index.labels[samples],
        sizes=index.sizes[samples],
        num_bytes=index.num_bytes[samples],
        formats=index.formats[samples],
        path_blob=packed,
        path_offsets=offsets,
        shard_numbers=index.shard_numbers[samples] if index.shards else index.shard_numbers,
        shard_offsets=index.shard_offsets[samples] if index.shards else index.shard_offsets,
        crc32=index.crc32[samples] if index.has_checksums else index.crc32,
    )


def _to_index(root: P, layout: Layout[P], table: Table) -> Index:
    # The tars of a packed set have checksums, and may be copied from bucket to bucket.
    pinned = isinstance(root, RemotePath) and bool(table.folders)
    name = layout.list_name
    if name and split_of(name) is None:
        name = f"{name}:{layout.split}"
    return Index(
        root if isinstance(root, Path) else str(root),
        layout.folder if isinstance(layout.folder, Path) else str(layout.folder),
        table.classes,
        **table.columns,
        shards=tuple(shard.name for shard in table.shards),
        versions=tuple(shard.probe for shard in table.shards) if pinned else (),
        list_name=name,
    )
