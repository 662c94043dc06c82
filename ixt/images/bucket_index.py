"""The table of images in a bucket: fetched or built once, then mapped from the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ixt.errors import DataError
from ixt.files import reason
from ixt.images.folders import class_files
from ixt.images.index_cache import (
    publish_table,
    remove_old,
    user_cache,
    warn_without_checksums,
    write_files,
)
from ixt.images.index_table import TAR_RULES, Table, UnusableTable
from ixt.images.lists import read_list
from ixt.images.shards import INDEX_FOLDER, META, Layout
from ixt.images.table_files import encode_table, read_table
from ixt.storage.objects import RemoteFile
from ixt.storage.paths import RemotePath

logger = logging.getLogger("ixt")

_NUM_THREADS = 16


def load_remote_table(
    root: RemotePath, layout: Layout[RemotePath], build: Callable[[], Table], *, rebuild: bool
) -> Table:
    """Load the table of a split in a bucket; it is fetched or built once, and then in the cache.

    The split is listed each time: an object of another length or version than before makes another
    table.

    Args:
        root: the data root.
        layout: of the split, in that root.
        build: looks at every image.
        rebuild: do so, whatever is in the cache.

    Raises:
        DataError: there is nothing of that split, or something that cannot be read as images.
        StorageError: the bucket cannot be read.
    """
    folder = layout.folder
    if layout.is_packed:
        if rebuild:
            raise DataError(
                f"{root}: a packed set contains its own index, which is not rebuilt in a bucket; "
                "pack the set and copy it again"
            )
        return _packed_table(root, layout)
    files = {name: (folder / name).file for name in _names(layout)}
    target = _cache(root.url) / f"{layout.split}-{_digest(files)}"
    if rebuild:
        shutil.rmtree(target, ignore_errors=True)
    return _kept(target, build)


def _names(layout: Layout[RemotePath]) -> list[str]:
    """The objects that a split is made of, relative to its folder."""
    if layout.tars:
        return list(layout.tars)
    if layout.list_path is None:
        found = class_files(layout.folder).values()
        return [os.fsdecode(name) for listed in found for name in listed.files]
    listing, _ = read_list(layout.list_path, layout.split)
    return [layout.list_name, *map(os.fsdecode, listing.names)]


def _packed_table(root: RemotePath, layout: Layout[RemotePath]) -> Table:
    """The table that `ixt data pack` wrote."""
    folder = layout.folder
    index = folder / INDEX_FOLDER
    files = {name: (index / name).file for name in index.level()[1]}
    if META not in files:
        raise DataError(
            f"{folder}: contains no {INDEX_FOLDER}/{META}; a set of ixt data pack is read from a "
            "bucket together with the index folder beside the tars, so copy it, too"
        )
    table = _fetch(index, files, _cache(root.url) / f"{layout.split}-{_digest(files)}")
    _check_shards(folder, {name: (folder / name).file for name in layout.tars}, table)
    if not table.has_checksums:
        warn_without_checksums(str(folder))
    return table


def _kept(target: Path, build: Callable[[], Table]) -> Table:
    """The table at a place of the cache, built first where there is none that can be used."""
    if target.exists():
        try:
            return read_table(target)
        except UnusableTable as error:
            logger.warning("%s: %s; the images are looked at again", target, error)
    table = build()
    try:
        publish_table(target, lambda staging: write_files(encode_table(table), staging))
        remove_old(target.parent, target.name.partition("-")[0], target)
        return read_table(target)  # mapped, which holds no memory
    except OSError as error:
        logger.warning(
            "%s: the index is not kept (%s), so each run looks at every image again; make room or "
            "set XDG_CACHE_HOME", target, reason(error)
        )  # fmt: skip
        return table


def _cache(root: str) -> Path:
    """The folder for the tables of a set; in /tmp for a container's user without a home."""
    cache = user_cache(root.rstrip("/").encode())
    if cache is not None:
        return cache
    folder = Path(tempfile.gettempdir()) / f"ixt-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be made ({reason(error)}); set XDG_CACHE_HOME to a folder that you "
            "own"
        ) from error
    # Anybody may have made it before, and could exchange the tables in it.
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not own or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise DataError(
            f"{folder}: is not a folder that only you can write to, so no index is read from it; "
            "remove it, or set XDG_CACHE_HOME to a folder that you own"
        )
    return folder / hashlib.sha256(root.rstrip("/").encode()).hexdigest()[:16]


def _digest(files: Mapping[str, RemoteFile]) -> str:
    """Changes with a name, length or version, and with the rules by which tables are built."""
    listing = [(name, file.size, file.version) for name, file in sorted(files.items())]
    return hashlib.sha256(json.dumps([listing, TAR_RULES]).encode()).hexdigest()[:16]


def _fetch(index: RemotePath, files: dict[str, RemoteFile], target: Path) -> Table:
    """The table from the cache, fetched first if it is missing or outdated."""
    try:
        if os.path.exists(target):
            return read_table(target, packed=True)
    except UnusableTable as error:
        logger.warning("%s: %s; fetching the index of %s again", target, error, index.parent)

    def fetch(staging: Path) -> None:
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            contents = pool.map(lambda name: (index / name).read_bytes(), files)
            write_files(dict(zip(files, contents, strict=True)), staging)
        read_table(staging, packed=True)

    try:
        publish_table(target, fetch, packed=True)
        remove_old(target.parent, target.name.partition("-")[0], target)
        return read_table(target, packed=True)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({reason(error)}); the index of "
            f"{index.parent} is kept there; make room or set XDG_CACHE_HOME"
        ) from error
    except UnusableTable as error:
        raise DataError(f"{index}: {error}; copy the packed set again, or pack it again") from error


def _check_shards(folder: RemotePath, found: Mapping[str, RemoteFile], table: Table) -> None:
    for shard in table.shards:
        file = found.get(shard.name)
        if file is None or file.size != shard.size:
            has = "is missing" if file is None else f"has {file.size} bytes"
            raise DataError(
                f"{folder}/{shard.name}: {has}, but the index says {shard.size} bytes; copy the "
                "packed set again, its index folder last"
            )
