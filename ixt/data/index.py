"""The table of a split's images: paths, labels, sizes. Built once, then memory-mapped.

`scan` finds the files, `headers` opens them, `index_cache` keeps the result.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ixt.data.headers import ImageFormat, Report, read_headers
from ixt.data.index_cache import Table, current_tables, write_table
from ixt.data.scan import Split, find_split, list_images
from ixt.errors import DataError

logger = logging.getLogger("ixt")


@dataclass(frozen=True, eq=False)
class Index:
    """One row per image file, sorted by class and then by path, byte by byte.

    The arrays are read-only and usually memory-mapped: what is not touched costs no memory.
    """

    root: Path
    """The data root, absolute."""
    folder: Path
    """The split's folder, absolute."""
    classes: tuple[str, ...]
    """Names of the class folders, sorted."""
    labels: NDArray[np.int32]
    """(n,) place of the image's folder in `classes`."""
    sizes: NDArray[np.int32]
    """(n, 2) height, width in pixels of the stored image, EXIF rotation not applied.

    0, 0 where the file is no readable image.
    """
    num_bytes: NDArray[np.int64]
    """(n,) length of the file."""
    formats: NDArray[np.uint8]
    """(n,) ImageFormat of the content, whatever the file's name says."""
    path_blob: NDArray[np.uint8]
    """Paths relative to `folder`, one behind the other."""
    path_offsets: NDArray[np.int64]
    """(n + 1,) where each path starts in `path_blob`; the last one is its length."""

    def __len__(self) -> int:
        return len(self.labels)

    def paths(self, samples: ArrayLike) -> list[str]:
        """Absolute paths of some samples.

        Args:
            samples: (m,) sample numbers, that is row numbers of this table.
        """
        rows = np.asarray(samples, np.int64)
        starts = self.path_offsets[:-1][rows].tolist()
        ends = self.path_offsets[1:][rows].tolist()
        blob = self.path_blob.data
        prefix = os.fsencode(self.folder) + b"/"
        return [
            os.fsdecode(prefix + bytes(blob[start:end]))
            for start, end in zip(starts, ends, strict=True)
        ]

    @property
    def unreadable(self) -> NDArray[np.int64]:
        """Numbers of the samples whose file was no readable image when it was indexed."""
        return np.flatnonzero(self.formats == ImageFormat.UNREADABLE).astype(np.int64)


def load_index(root: str | Path, split: Split, *, report: Report | None = None) -> Index:
    """Load the index of a split, building and caching it first where that is needed.

    A cached index is built anew when a folder below the split has changed. A file that was
    replaced in place leaves its folder unchanged and is not noticed, unless it was unreadable.

    Args:
        root: folder with train/CLASS/IMAGE and val/CLASS/IMAGE (or validation/).
        split: train or val.
        report: called with (files read, files in all) while an index is built.

    Raises:
        DataError: the folder is missing, has another layout, or may not be read.
    """
    root = Path(root).expanduser().absolute()
    try:
        folder = find_split(root, split)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{root}: cannot be read ({reason})") from error
    cached = _read_cached(root, folder)
    if cached is not None:
        return cached
    table = _build_table(folder, report)
    write_table(root, folder, table)
    # The mapped copy holds no memory; there is none where it could not be written.
    return _read_cached(root, folder) or _to_index(root, folder, table)


def _read_cached(root: Path, folder: Path) -> Index | None:
    for table in current_tables(root, folder):
        index = _to_index(root, folder, table)
        # Mending a file in place leaves no trace in its folder's time: look at these ones again.
        damaged = [os.fsencode(path) for path in index.paths(index.unreadable)]
        if (read_headers(b"", damaged).formats == ImageFormat.UNREADABLE).all():
            return index
    return None


def _build_table(folder: Path, report: Report | None) -> Table:
    listing = list_images(folder)
    logger.info("%s: reading the headers of %d images", folder, len(listing.files))
    headers = read_headers(os.fsencode(folder), listing.files, report)
    blob, offsets = join_paths(listing.files)
    return Table(
        classes=listing.classes,
        folders=listing.folders,
        columns={
            "labels": np.repeat(np.arange(len(listing.counts), dtype=np.int32), listing.counts),
            "sizes": headers.sizes,
            "num_bytes": headers.num_bytes,
            "formats": headers.formats,
            "path_blob": blob,
            "path_offsets": offsets,
        },
    )


def join_paths(files: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pack paths into one blob and the (n + 1,) offsets that find them in it."""
    offsets = np.zeros(len(files) + 1, np.int64)
    np.cumsum([len(file) for file in files], out=offsets[1:])
    return np.frombuffer(b"".join(files), np.uint8), offsets


def _to_index(root: Path, folder: Path, table: Table) -> Index:
    return Index(root=root, folder=folder, classes=table.classes, **table.columns)
