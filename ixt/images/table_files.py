"""A table as a folder of .npy columns and meta.json, which are verified when they are read.

meta.json holds the SHA-256 of each column's file, and its own: a flipped bit anywhere is noticed.
Packed sets of earlier releases have none, so of theirs only the values are checked.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixt.files import reason
from ixt.images.index_table import COLUMNS, Table, UnusableTable, check_table
from ixt.images.shards import META, Stamp

FORMAT_VERSION = 3
_WITHOUT_DIGESTS = 2
_KEYS = frozenset(("format", "classes", "folders", "shards"))
_DIGESTS = "sha256"
_OWN_DIGEST = "sha256_of_the_rest"
_PLACES = ("shard_numbers", "shard_offsets", "num_bytes")
"""The columns that say of which bytes the CRC-32 is."""
_NUM_THREADS = 4


def encode_table(table: Table) -> dict[str, bytes]:
    """The files of a table by name, meta.json last; the same table gives the same bytes."""
    files = {f"{name}.npy": _npy(table.columns[name]) for name in COLUMNS}
    meta = {
        "format": FORMAT_VERSION,
        "classes": table.classes,
        "folders": table.folders,
        "shards": table.shards,
        _DIGESTS: {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    own = {_OWN_DIGEST: _digest(meta)}
    return files | {META: json.dumps(meta | own, sort_keys=True).encode()}


def read_table(path: Path, *, packed: bool = False) -> Table:
    """Verify and memory-map the table in a folder.

    Args:
        path: the folder.
        packed: `ixt data pack` wrote it, so it may be of an earlier release and without digests.

    Raises:
        UnusableTable: it is damaged, cut off, of another version, or not there.
    """
    meta = _read_meta(path, packed)
    if meta["format"] == FORMAT_VERSION:
        _verify(path, meta[_DIGESTS])
    names = COLUMNS if meta["format"] == FORMAT_VERSION else COLUMNS.keys() - {"crc32"}
    columns = {"crc32": np.zeros(0, np.uint32)} | {name: _map(path, name) for name in names}
    try:
        shards = tuple(Stamp(*values) for values in meta["shards"])
        table = Table(tuple(meta["classes"]), dict(meta["folders"]), columns, shards)
        if not _is_typed(table):
            raise ValueError
        check_table(table, packed=packed)
    except (ValueError, TypeError, OverflowError) as error:
        raise UnusableTable(f"{META} is damaged") from error
    return table


def read_checksums(path: Path, table: Table) -> NDArray[np.uint32]:
    """The CRC-32 of each image from a packed set's index in which another column is damaged.

    Args:
        path: the folder of the index.
        table: made from the same tars.

    Returns:
        (n,), or (0,) where the index gives none, or is of images that lie elsewhere.
    """
    try:
        digests = _read_meta(path, packed=False)[_DIGESTS]
        for name in _PLACES:
            if hashlib.sha256(_npy(table.columns[name])).hexdigest() != digests[f"{name}.npy"]:
                raise UnusableTable(f"{name} is another")
        _verify(path, {"crc32.npy": digests["crc32.npy"]})
        return _map(path, "crc32")
    except UnusableTable:
        return np.zeros(0, np.uint32)


def _npy(column: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, column, allow_pickle=False)
    return file.getvalue()


def _digest(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _read_meta(path: Path, packed: bool) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((path / META).read_bytes())
    except OSError as error:
        raise UnusableTable(f"{META} cannot be read ({reason(error)})") from error
    except (ValueError, RecursionError) as error:
        raise UnusableTable(f"{META} is damaged") from error
    version = meta.get("format") if isinstance(meta, dict) else None
    if version == FORMAT_VERSION and meta.keys() == _KEYS | {_DIGESTS, _OWN_DIGEST}:
        own = meta.pop(_OWN_DIGEST)
        if own == _digest(meta) and meta[_DIGESTS].keys() == {f"{name}.npy" for name in COLUMNS}:
            return meta
    # A table with digests that says it is older has lost a bit.
    elif version == _WITHOUT_DIGESTS and meta.keys() == _KEYS:
        if packed:
            return meta
        raise UnusableTable("was written by an earlier release of ixt, without checksums")
    elif isinstance(version, int) and version not in (FORMAT_VERSION, _WITHOUT_DIGESTS):
        raise UnusableTable(f"was written by another release of ixt (its format is {version})")
    raise UnusableTable(f"{META} is damaged")


def _verify(path: Path, digests: Mapping[str, str]) -> None:
    """Compare the columns' files with their digests, side by side: hashing releases the lock."""

    def digest(name: str) -> str:
        with (path / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        jobs = {name: pool.submit(digest, name) for name in digests}
    for name, job in jobs.items():
        try:
            if job.result() != digests[name]:
                raise UnusableTable(f"{name} is damaged (its SHA-256 is not that in {META})")
        except OSError as error:
            raise UnusableTable(f"{name} cannot be read ({reason(error)})") from error


def _map(path: Path, name: str) -> NDArray[Any]:
    try:
        # asarray drops numpy's memmap class, whose bookkeeping slows each small access down.
        return np.asarray(np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False))
    except Exception as error:  # numpy raises nearly anything on a damaged header
        raise UnusableTable(f"{name}.npy is damaged ({reason(error).splitlines()[0]})") from error


def _is_typed(table: Table) -> bool:
    texts = [*table.classes, *table.folders, *(stamp.name for stamp in table.shards)]
    numbers = [*table.folders.values(), *(stamp.size for stamp in table.shards)]
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int for number in numbers)
        and all(0 <= stamp.size < 2**63 for stamp in table.shards)
        and all(isinstance(stamp.probe, str) for stamp in table.shards)
    )
