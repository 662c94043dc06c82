"""The index of a packed set in a bucket: fetched once, then mapped from the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISDIR

from ixt.errors import DataError
from ixt.files import reason
from ixt.images.buckets import RemoteFile, list_remote, read_remote
from ixt.images.folders import SPLIT_FOLDERS, Split
from ixt.images.index_cache import Table, publish_folder, read_table, user_cache
from ixt.images.shards import INDEX_FOLDER, META

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
    if not root.split("://", 1)[1].strip("/"):
        raise DataError(f"{root}: names no bucket; give s3://BUCKET/PREFIX")
    for name in SPLIT_FOLDERS[split]:
        folder = f"{root.rstrip('/')}/{name}"
        found = list_remote(folder)
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
            "from a bucket, with the index folder that lies beside the tars"
        )
    table = _fetch(folder, files, _cache(root) / f"{split}-{_digest(files)}")
    _check_shards(folder, found, table)
    return folder, table


def _cache(root: str) -> Path:
    """Where a bucket's tables are kept: in the user's cache, else in a folder of this user's own.

    Raises:
        DataError: somebody else could have put tables there.
    """
    cache = user_cache(root.rstrip("/").encode())
    if cache is not None:
        return cache
    own = Path(tempfile.gettempdir()) / f"ixt-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    status = own.lstat()
    if status.st_uid != os.getuid() or not S_ISDIR(status.st_mode) or status.st_mode & 0o022:
        raise DataError(
            f"{own}: others may write there; set XDG_CACHE_HOME to a folder of your own"
        )
    return own


def _digest(files: dict[str, RemoteFile]) -> str:
    listing = [(name, file.size, file.etag) for name, file in sorted(files.items())]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]


def _fetch(folder: str, files: dict[str, RemoteFile], target: Path) -> Table:
    """The table from the cache, put there first where that is needed."""
    cached = read_table(target, packed=True)
    if cached is not None:
        return cached

    def fetch(staging: Path) -> None:
        def fetch_file(name: str) -> None:
            size = files[name].size
            # A part of known length, so a file replaced meanwhile is noticed.
            (staging / name).write_bytes(read_remote(f"{folder}/{INDEX_FOLDER}/{name}", 0, size))

        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            list(pool.map(fetch_file, (name for name in files if os.sep not in name)))

    try:
        publish_folder(target, fetch)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({reason(error)}); the index of "
            f"{folder} is kept there; make room or set XDG_CACHE_HOME"
        ) from error
    table = read_table(target, packed=True)
    if table is None:
        raise DataError(
            f"{folder}/{INDEX_FOLDER}: is damaged or of another release; copy the packed set again"
        )
    return table


def _check_shards(folder: str, found: dict[str, RemoteFile], table: Table) -> None:
    for shard in table.shards:
        file = found.get(shard.name)
        if file is None or file.size != shard.size:
            has = "is missing" if file is None else f"has {file.size} bytes"
            raise DataError(
                f"{folder}/{shard.name}: {has}, the index says {shard.size} bytes; "
                "copy the packed set again, the index last"
            )
