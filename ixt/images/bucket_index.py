"""The index of a packed set in a bucket: fetched once, then mapped from the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ixt.errors import DataError
from ixt.files import reason
from ixt.images.folders import SPLIT_FOLDERS, Split
from ixt.images.index_cache import (
    publish_table,
    remove_old,
    user_cache,
    warn_without_checksums,
)
from ixt.images.index_table import Table, UnusableTable
from ixt.images.shards import INDEX_FOLDER, META
from ixt.images.table_files import read_table
from ixt.storage.objects import RemoteFile, list_objects, read_object
from ixt.storage.urls import object_path

logger = logging.getLogger("ixt")

_NUM_THREADS = 16


def load_remote_table(root: str, split: Split) -> tuple[str, Table]:
    """Load the table of a split that `ixt data pack` wrote.

    The folder of the split is listed each time; its index is fetched again if one of its files has
    another ETag or length than the one in the cache.

    Args:
        root: `s3://BUCKET/PREFIX`, the place of the packed set.
        split: train or val.

    Returns:
        URL of the split's folder, and its table.

    Raises:
        DataError: the bucket cannot be read, holds no packed set, or a shard is missing or of
            another length than indexed.
    """
    object_path(root)
    for name in SPLIT_FOLDERS[split]:
        folder = f"{root.rstrip('/')}/{name}"
        found = list_objects(folder)
        if found:
            break
    else:
        raise DataError(
            f"{root}: holds no {' or '.join(f'{n}/' for n in SPLIT_FOLDERS[split])}; write a set "
            "with ixt data pack and copy its folder there as it is"
        )
    files = {
        path.removeprefix(f"{INDEX_FOLDER}/"): file
        for path, file in found.items()
        if path.startswith(f"{INDEX_FOLDER}/")
    }
    if META not in files:
        raise DataError(
            f"{folder}: holds no {INDEX_FOLDER}/{META}; only sets of ixt data pack can be read "
            "from a bucket, together with the index folder beside the tars"
        )
    table = _fetch(folder, files, _cache(root) / f"{split}-{_digest(files)}")
    _check_shards(folder, found, table)
    if not table.has_checksums:
        warn_without_checksums(folder)
    return folder, table


def _cache(root: str) -> Path:
    """The folder for the tables of a set; of a container's user without a home, in /tmp."""
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


def _digest(files: dict[str, RemoteFile]) -> str:
    listing = [(name, file.size, file.version) for name, file in sorted(files.items())]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]


def _fetch(folder: str, files: dict[str, RemoteFile], target: Path) -> Table:
    """The table from the cache, put there first where that is needed."""
    try:
        if os.path.exists(target):
            return read_table(target, packed=True)
    except UnusableTable as error:
        logger.warning("%s: %s; fetching the index of %s again", target, error, folder)

    def fetch(staging: Path) -> None:
        def fetch_file(name: str) -> None:
            size = files[name].size
            # A part of known length, so a file replaced meanwhile is noticed.
            (staging / name).write_bytes(read_object(f"{folder}/{INDEX_FOLDER}/{name}", 0, size))

        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            list(pool.map(fetch_file, (name for name in files if os.sep not in name)))
        read_table(staging, packed=True)

    try:
        publish_table(target, fetch, packed=True)
        remove_old(target.parent, target.name.partition("-")[0], target)
        return read_table(target, packed=True)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({reason(error)}); the index of "
            f"{folder} is kept there; make room or set XDG_CACHE_HOME"
        ) from error
    except UnusableTable as error:
        raise DataError(
            f"{folder}/{INDEX_FOLDER}: {error}; copy the packed set again, or pack it again"
        ) from error


def _check_shards(folder: str, found: dict[str, RemoteFile], table: Table) -> None:
    for shard in table.shards:
        file = found.get(shard.name)
        if file is None or file.size != shard.size:
            has = "is missing" if file is None else f"has {file.size} bytes"
            raise DataError(
                f"{folder}/{shard.name}: {has}, the index says {shard.size} bytes; "
                "copy the packed set again, the index last"
            )
