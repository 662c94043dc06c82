"""Keep a split's table on disk: written atomically, memory-mapped, checked against its files.

A table is a folder `<split>-<digest>` of .npy columns and meta.json, in ROOT/.ixt/ or, where that
cannot be written, in the user's cache. The digest is of the content, so processes that build at
once publish the same thing under the same name, and a published table never changes. Tars written
by `ixt data pack` carry theirs with them, in the folder `index`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixt.errors import DataError
from ixt.files import published, reason, user_cache_folder
from ixt.images.folders import Split
from ixt.images.shards import INDEX_FOLDER, META, Layout, Stamp, unchanged

logger = logging.getLogger("ixt")

FORMAT_VERSION = 2

# A running job may still map a replaced table, and losing it would kill the job on a network
# file system: replaced tables stay for longer than a training run takes.
_KEEP_S = 30 * 24 * 3600

_ASIDE = "old-"

_DTYPES: dict[str, type[np.generic]] = {
    "labels": np.int32,
    "sizes": np.int32,
    "num_bytes": np.int64,
    "formats": np.uint8,
    "path_blob": np.uint8,
    "path_offsets": np.int64,
    "shard_numbers": np.int32,
    "shard_offsets": np.int64,
}
# What a cut-off or edited cache makes json and numpy raise; such a cache is built anew.
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError)


@dataclass(frozen=True)
class Table:
    """A split's images as columns, and the state of the folders or tars they were found in."""

    classes: tuple[str, ...]
    """Names of the class folders, sorted."""
    folders: dict[str, int]
    """Modification time (ns) of the split's folder (key "") and of each folder below it; empty
    where images lie in tars."""
    columns: dict[str, NDArray[Any]]
    """The arrays of `ixt.images.index.Index`, by name."""
    shards: tuple[Stamp, ...] = ()
    """The tars, in the order of their numbers; empty where images are files."""


def current_tables(root: Path, layout: Layout) -> Iterator[Table]:
    """Memory-map the cached tables that still describe a split's images; rarely more than one.

    Says so, once the caller has asked for all of them, if there are only outdated ones.

    Args:
        root: the data root.
        layout: where the split's images are now.
    """
    packed = [layout.folder / INDEX_FOLDER] if layout.tars else []
    seen = False
    for path in chain(
        (path for path in packed if path.is_dir()),
        *(sorted(cache.glob(f"{layout.split}-*")) for cache in cache_folders(root)),
    ):
        seen = True
        table = read_table(path)
        if table is not None and _is_current(table, layout):
            yield table
    if seen:
        logger.warning(
            "%s: its cached index is out of date or unusable; building it anew", layout.folder
        )


def write_table(root: Path, layout: Layout, table: Table) -> None:
    """Cache a split's table in the first place that can be written; warn if there is none."""
    write_to_cache(
        root,
        lambda cache: _publish(cache, layout.split, table),
        "the index is not cached (%s), so each run reads every image header again",
    )


def write_to_cache(root: Path, write: Callable[[Path], None], lost: str) -> None:
    """Write to the first cache folder of a data root that can be written; warn if there is none.

    Args:
        root: the data root.
        write: called with a folder; an OSError lets the next one be tried.
        lost: the warning, with %s for the reason.
    """
    problem = ""
    for cache in cache_folders(root):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            write(cache)
        except OSError as error:
            problem = str(error)
        else:
            return
    logger.warning(f"%s: {lost}; allow writing there or set XDG_CACHE_HOME", root, problem)


def set_aside(root: Path, split: Split) -> None:
    """Read none of the cached tables of a split again; a running job keeps those that it maps.

    Raises:
        DataError: one cannot be renamed.
    """
    for cache in cache_folders(root):
        for path in cache.glob(f"{split}-*"):
            try:
                path.rename(cache / f"{_ASIDE}{path.name}")
            except FileNotFoundError:  # another process does so, too
                continue
            except OSError as error:
                raise DataError(
                    f"{path}: cannot be replaced ({reason(error)}); allow writing"
                ) from error


def cache_folders(root: Path) -> Iterator[Path]:
    """Where tables of a data root may be kept, the best place first."""
    yield root / ".ixt"
    user = user_cache(os.fsencode(root.resolve()))
    if user is not None:
        yield user


def user_cache(root: bytes) -> Path | None:
    """The folder for tables of a data root, a path or a URL, in the user's cache, if any."""
    base = user_cache_folder()
    return None if base is None else base / "index" / hashlib.sha256(root).hexdigest()[:16]


def read_table(path: Path) -> Table | None:
    """The table in a folder, or None where it is of another version, cut off or damaged."""
    try:
        meta = json.loads((path / META).read_text())
        if meta["format"] != FORMAT_VERSION:
            return None
        # asarray drops numpy's memmap class, whose bookkeeping slows each small access down.
        columns = {
            name: np.asarray(np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for name in _DTYPES
        }
        shards = tuple(Stamp(*values) for values in meta["shards"])
        table = Table(tuple(meta["classes"]), dict(meta["folders"]), columns, shards)
        return table if _is_consistent(table) else None
    except _UNUSABLE:
        return None


def _is_consistent(table: Table) -> bool:
    columns = table.columns
    count = len(columns["labels"])
    in_shards = count if table.shards else 0
    return (
        all(columns[name].dtype == dtype for name, dtype in _DTYPES.items())
        and columns["sizes"].shape == (count, 2)
        and len(columns["num_bytes"]) == len(columns["formats"]) == count
        and len(columns["path_offsets"]) == count + 1
        and len(columns["shard_numbers"]) == len(columns["shard_offsets"]) == in_shards
        and int(columns["path_offsets"][-1]) == len(columns["path_blob"])
    )


def _is_current(table: Table, layout: Layout) -> bool:
    """Whether no folder was touched: adding or removing a file renews its folder's time.

    Tars are compared themselves.
    """
    if layout.tars:
        names = tuple(shard.name for shard in table.shards)
        return names == layout.tars and unchanged(layout.folder, table.shards)
    try:
        return bool(table.folders) and all(
            os.stat(os.path.join(layout.folder, name)).st_mtime_ns == mtime_ns
            for name, mtime_ns in table.folders.items()
        )
    except OSError:
        return False


def _publish(cache: Path, name: str, table: Table) -> None:
    """Put a table into a cache, and remove what it replaced long ago.

    Raises:
        OSError: the cache cannot be written.
    """
    target = cache / f"{name}-{_digest(table)}"
    save_table(target, table)
    for other in chain(cache.glob(f"{name}-*"), cache.glob(f"{_ASIDE}{name}-*")):
        with suppress(FileNotFoundError):  # another process removes it, too
            if other != target and time.time() - other.stat().st_mtime > _KEEP_S:
                shutil.rmtree(other, ignore_errors=True)


def save_table(target: Path, table: Table) -> None:
    """Write a table beside its final place and rename it; a usable one that is there stays.

    Raises:
        OSError: the place cannot be written.
    """

    def write(staging: Path) -> None:
        for name, column in table.columns.items():
            np.save(staging / f"{name}.npy", column, allow_pickle=False)
        (staging / META).write_text(_meta(table))

    publish_folder(target, write)


def publish_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder beside the place of a table and rename it; a usable table there stays.

    Args:
        target: the table's place.
        fill: writes the table's files into the folder that it is given.

    Raises:
        OSError: the place cannot be written.
    """
    try:
        with published(target, unique=True) as staging:
            staging.mkdir(parents=True)
            fill(staging)
            if target.exists() and read_table(target) is None:
                shutil.rmtree(target)
    except OSError:
        if read_table(target) is None:
            raise
        # Another process has just published the same table.


def _digest(table: Table) -> str:
    digest = hashlib.sha256(_meta(table).encode())
    for name in _DTYPES:
        digest.update(np.ascontiguousarray(table.columns[name]).data)
    return digest.hexdigest()[:16]


def _meta(table: Table) -> str:
    meta = {
        "format": FORMAT_VERSION,
        "classes": table.classes,
        "folders": table.folders,
        "shards": table.shards,
    }
    return json.dumps(meta, sort_keys=True)
