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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixt.errors import DataError
from ixt.files import published, reason, user_cache_folder
from ixt.images.folders import Split, few
from ixt.images.shards import INDEX_FOLDER, META, Layout, Stamp, unchanged
from ixt.images.table_checks import DTYPES, refuse_impossible

logger = logging.getLogger("ixt")

FORMAT_VERSION = 3
_WITHOUT_CHECKSUMS = 2
"""Packed sets of that format are read; a cached table of it is built anew."""

# A running job may still map a replaced table, and losing it would kill the job on a network
# file system: replaced tables stay for longer than a training run takes.
_KEEP_S = 30 * 24 * 3600

_ASIDE = "old-"
_NUM_THREADS = 4


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

    Raises:
        DataError: a packed set lacks a shard that its index names.
    """
    packed = [layout.folder / INDEX_FOLDER] if layout.tars else []
    seen = False
    for path in chain(
        (path for path in packed if path.is_dir()),
        *(sorted(cache.glob(f"{layout.split}-*")) for cache in cache_folders(root)),
    ):
        seen = True
        table = read_table(path, packed=path in packed)
        if table is not None and path in packed:
            _refuse_missing_shards(table, layout)
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


def read_table(path: Path, *, packed: bool = False) -> Table | None:
    """The table in a folder; None where there is none, or one of another version.

    One whose files do not match their checksums, or that cannot be true, is None too, and named in
    the log.

    Args:
        path: the folder.
        packed: whether `ixt data pack` wrote it, maybe a release that kept no checksums.
    """
    try:
        return _load(path, packed)
    except FileNotFoundError:
        return None
    except Exception as error:  # json's and numpy's readers raise nearly anything on damaged files
        logger.warning("%s: is damaged (%s)", path, reason(error).splitlines()[0])
        return None


def _load(path: Path, packed: bool) -> Table | None:
    content = json.loads((path / META).read_text())
    version = content["format"]
    if version == FORMAT_VERSION:
        meta = content["table"]
        if _sha256(_as_text(meta)) != content["sha256"]:
            raise ValueError(f"{META} does not match its checksum")
        _verify(path, content["table"]["sha256"])
    elif version == _WITHOUT_CHECKSUMS and packed:
        _say_unchecked(path)
        meta = content
    else:
        return None
    columns = {
        name: _column(path, name) for name in DTYPES if name != "checksums" or meta != content
    }
    columns.setdefault("checksums", np.zeros(0, np.uint32))
    shards = tuple(Stamp(*values) for values in meta["shards"])
    table = Table(tuple(meta["classes"]), dict(meta["folders"]), columns, shards)
    sizes = [shard.size for shard in shards] if shards else None
    refuse_impossible(table.columns, table.classes, sizes)
    return table


def _column(path: Path, name: str) -> NDArray[Any]:
    # asarray drops numpy's memmap class, whose bookkeeping slows each small access down.
    return np.asarray(np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False))


def _verify(path: Path, sums: Mapping[str, str]) -> None:
    """Compare the columns' files with their checksums: 90 MB, 0.1 s for ImageNet-1k."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = pool.map(lambda name: _file_sha256(path / f"{name}.npy"), DTYPES)
        for name, digest in zip(DTYPES, found, strict=True):
            if digest != sums[name]:
                raise ValueError(f"{name}.npy does not match its checksum")


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache
def _say_unchecked(path: Path) -> None:
    logger.warning(
        "%s: was written by an older release and holds no checksums, so damage may go unnoticed; "
        "pack the set again to have them",
        path,
    )


def _refuse_missing_shards(table: Table, layout: Layout) -> None:
    """Fewer images than were packed would train without anybody noticing."""
    missing = [shard.name for shard in table.shards if shard.name not in layout.tars]
    if missing:
        raise DataError(
            f"{layout.folder}: {few(missing, 'shard')} of the packed set missing; copy the set "
            f"again, or remove {layout.folder / INDEX_FOLDER} to train on the images that are there"
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
        meta = _meta(table) | {
            "sha256": {name: _file_sha256(staging / f"{name}.npy") for name in DTYPES}
        }
        content = {"format": FORMAT_VERSION, "table": meta, "sha256": _sha256(_as_text(meta))}
        (staging / META).write_text(_as_text(content))

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
    digest = hashlib.sha256(_as_text(_meta(table) | {"format": FORMAT_VERSION}).encode())
    for name in DTYPES:
        digest.update(np.ascontiguousarray(table.columns[name]).data)
    return digest.hexdigest()[:16]


def _meta(table: Table) -> dict[str, Any]:
    return {"classes": table.classes, "folders": table.folders, "shards": table.shards}


def _as_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
