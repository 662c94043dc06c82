"""Keep a split's table on disk: written atomically, memory-mapped, checked against its folders.

A table is a folder `<split>-<digest>` of .npy columns and meta.json, in ROOT/.ixt/ or, where that
cannot be written, in the user's cache. The digest is of the content, so processes that build at
once publish the same thing under the same name, and a published table never changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("ixt")

FORMAT_VERSION = 1

# A running job may still map a replaced table, and losing it would kill the job on a network
# file system: replaced tables stay for longer than a training run takes.
_KEEP_S = 30 * 24 * 3600

_DTYPES: dict[str, type[np.generic]] = {
    "labels": np.int32,
    "sizes": np.int32,
    "num_bytes": np.int64,
    "formats": np.uint8,
    "path_blob": np.uint8,
    "path_offsets": np.int64,
}
# What a cut-off or edited cache makes json and numpy raise; such a cache is built anew.
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError)


@dataclass(frozen=True)
class Table:
    """A split's files as columns, and the state of the folders they were found in."""

    classes: tuple[str, ...]
    """Names of the class folders, sorted."""
    folders: dict[str, int]
    """Modification time (ns) of the split's folder (key "") and of each folder below it."""
    columns: dict[str, NDArray[Any]]
    """The arrays of `ixt.data.index.Index`, by name."""


def current_tables(root: Path, folder: Path) -> Iterator[Table]:
    """Memory-map the cached tables that still describe a split's folders; rarely more than one.

    Says so, once the caller has asked for all of them, if there are only outdated ones.

    Args:
        root: the data root.
        folder: the split's folder below it.
    """
    seen = False
    for cache in cache_folders(root):
        for path in sorted(cache.glob(f"{folder.name}-*")):
            seen = True
            table = _read(path)
            if table is not None and _is_current(table, folder):
                yield table
    if seen:
        logger.warning("%s: its cached index is out of date or unusable", folder)


def write_table(root: Path, folder: Path, table: Table) -> None:
    """Cache a split's table in the first place that can be written; warn if there is none."""
    problem = ""
    for cache in cache_folders(root):
        try:
            _publish(cache, folder.name, table)
        except OSError as error:
            problem = str(error)
        else:
            return
    logger.warning(
        "%s: the index is not cached (%s), so each run reads every image header "
        "again; allow writing there or set XDG_CACHE_HOME",
        root,
        problem,
    )


def cache_folders(root: Path) -> Iterator[Path]:
    """Where what is known of a data root may be kept, in order of preference."""
    yield root / ".ixt"
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a container's user without a home
        return
    yield base / "ixt" / "index" / key


def _read(path: Path) -> Table | None:
    """The table in a folder, or None where it is of another version, cut off or damaged."""
    try:
        meta = json.loads((path / "meta.json").read_text())
        if meta["format"] != FORMAT_VERSION:
            return None
        # asarray drops numpy's memmap class, whose bookkeeping slows each small access down.
        columns = {
            name: np.asarray(np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for name in _DTYPES
        }
        table = Table(tuple(meta["classes"]), dict(meta["folders"]), columns)
        return table if _is_consistent(table) else None
    except _UNUSABLE:
        return None


def _is_consistent(table: Table) -> bool:
    columns = table.columns
    count = len(columns["labels"])
    return (
        all(columns[name].dtype == dtype for name, dtype in _DTYPES.items())
        and columns["sizes"].shape == (count, 2)
        and len(columns["num_bytes"]) == len(columns["formats"]) == count
        and len(columns["path_offsets"]) == count + 1
        and int(columns["path_offsets"][-1]) == len(columns["path_blob"])
    )


def _is_current(table: Table, folder: Path) -> bool:
    """Whether no folder was touched: adding or removing a file renews its folder's time."""
    try:
        return all(
            os.stat(os.path.join(folder, name)).st_mtime_ns == mtime_ns
            for name, mtime_ns in table.folders.items()
        )
    except OSError:
        return False


def _publish(cache: Path, name: str, table: Table) -> None:
    """Write a table beside its final place, rename it, and remove what it replaced long ago.

    Raises:
        OSError: the cache cannot be written.
    """
    target = cache / f"{name}-{_digest(table)}"
    cache.mkdir(parents=True, exist_ok=True)
    staging = cache / f".{uuid.uuid4().hex}"
    try:
        _write(staging, table)
        if target.exists() and _read(target) is None:
            shutil.rmtree(target)
        try:
            staging.rename(target)
        except OSError:
            if _read(target) is None:
                raise
            # Another process has just published the same table.
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for other in cache.glob(f"{name}-*"):
        with suppress(FileNotFoundError):  # another process removes it, too
            if other != target and time.time() - other.stat().st_mtime > _KEEP_S:
                shutil.rmtree(other, ignore_errors=True)


def _digest(table: Table) -> str:
    digest = hashlib.sha256(_meta(table).encode())
    for name in _DTYPES:
        digest.update(np.ascontiguousarray(table.columns[name]).data)
    return digest.hexdigest()[:16]


def _write(path: Path, table: Table) -> None:
    path.mkdir()
    for name, column in table.columns.items():
        np.save(path / f"{name}.npy", column, allow_pickle=False)
    (path / "meta.json").write_text(_meta(table))


def _meta(table: Table) -> str:
    meta = {"format": FORMAT_VERSION, "classes": table.classes, "folders": table.folders}
    return json.dumps(meta, sort_keys=True)
