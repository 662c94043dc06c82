"""List, read, write, create and delete objects of a bucket by their URLs: `s3://BUCKET/NAME`.

Each call may be made from any thread. An object is there whole or not at all: no reader sees half
of a write. Where a server fails for good, a call raises StorageError: one line that names the URL.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ixt.errors import MissingObject, StorageError
from ixt.storage.ranges import read_range
from ixt.storage.retries import ConditionFailed, ask
from ixt.storage.urls import object_path, scheme_of

_VERSIONS = ("generation", "ETag", "etag", "blob_id")


@dataclass(frozen=True)
class RemoteFile:
    """An object as a listing shows it."""

    size: int
    """Bytes."""
    version: str
    """Changes with the content: ETag, generation or blob ID."""


def read_object(url: str, offset: int = 0, size: int | None = None, version: str = "") -> bytes:
    """Read a part of an object, or all of it.

    Args:
        url: the object.
        offset: first byte.
        size: number of bytes; None for all from `offset` on.
        version: refuse any other than this one of a listing, where the cloud can (not at hf://).

    Raises:
        MissingObject: it is not there.
        StorageError: it has changed, access is denied, or the server fails time and again.
    """
    if size == 0:  # no range of HTTP is empty
        return b""
    path = object_path(url)

    def read(filesystem: Any, attempt: int) -> bytes:
        data = read_range(filesystem, scheme_of(url), path, offset, size, version)
        if size is not None and len(data) != size:
            raise ConnectionError(f"{len(data)} of {size} bytes were received")
        return data

    try:
        return ask(url, read)
    except ConditionFailed as error:
        raise StorageError(
            f"{url}: has changed since it was listed; leave objects as they are while they are "
            "read, and start again"
        ) from error


def stat_object(url: str) -> RemoteFile | None:
    """Size and version of an object; None if it is not there.

    Raises:
        StorageError: access is denied, or the server fails time and again.
    """
    path = object_path(url)

    def stat(filesystem: Any, attempt: int) -> RemoteFile | None:
        filesystem.invalidate_cache()
        entry = filesystem.info(path)
        return None if entry["type"] == "directory" else _remote_file(entry)

    try:
        return ask(url, stat)
    except MissingObject:
        return None


def list_objects(url: str) -> dict[str, RemoteFile]:
    """List all objects below a URL, by their name behind it; empty if there are none.

    Raises:
        StorageError: there is no such bucket, access is denied, or the server fails time and again.
    """
    path = object_path(url)

    def find(filesystem: Any, attempt: int) -> dict[str, Any]:
        filesystem.invalidate_cache()
        found: dict[str, Any] = filesystem.find(path, detail=True)
        if not found and scheme_of(url) in ("az", "abfs"):
            filesystem.info(path.partition("/")[0])  # adlfs lists nothing where no container is
        return found

    prefix = path + "/"
    return {
        name.removeprefix(prefix): _remote_file(entry)
        for name, entry in ask(url, find).items()
        # A place may also be an object, and consoles mark a folder by an empty one.
        if name.startswith(prefix) and not name.endswith("/") and entry["type"] != "directory"
    }


def list_folder(url: str) -> tuple[list[str], dict[str, RemoteFile]]:
    """List one level below a URL: the names that other names begin with, sorted, and the objects.

    Raises:
        StorageError: as `list_objects`.
    """
    path = object_path(url)

    def ls(filesystem: Any, attempt: int) -> list[dict[str, Any]]:
        filesystem.invalidate_cache()
        entries: list[dict[str, Any]] = filesystem.ls(path, detail=True)
        return entries

    try:
        entries = ask(url, ls)
    except MissingObject:
        if "/" not in path:  # the bucket itself
            raise
        return [], {}
    prefix = path + "/"
    below = {entry["name"].rstrip("/").removeprefix(prefix): entry for entry in entries}
    below = {name: entry for name, entry in below.items() if name != path and name}
    folders = sorted(name for name, entry in below.items() if entry["type"] == "directory")
    files = {
        name: _remote_file(entry)
        for name, entry in below.items()
        if entry["type"] != "directory" and not entry["name"].endswith("/")
    }
    return folders, files


def write_object(url: str, data: bytes) -> None:
    """Write an object; one that is there is replaced.

    Raises:
        StorageError: access is denied, or the server fails time and again.
    """
    path = _writable(url)
    ask(url, lambda filesystem, attempt: filesystem.pipe_file(path, data))


def write_file(file: Path, url: str) -> None:
    """Write the content of a local file, in parts where it is large; an object there is replaced.

    Raises:
        StorageError: as `write_object`, or the bucket holds another length afterwards.
        OSError: the file cannot be read.
    """
    size, path = os.stat(file).st_size, _writable(url)
    ask(url, lambda filesystem, attempt: filesystem.put_file(str(file), path))
    found = stat_object(url)
    if found is None or found.size != size:
        has = "is missing" if found is None else f"has {found.size} bytes"
        raise StorageError(
            f"{url}: {has} after {size} bytes of {file} were written; another program writes the "
            "same object, so choose another place"
        )


def create_object(url: str, data: bytes) -> bool:
    """Write an object unless there is one: of several writers at once, one gets True.

    The server decides (If-None-Match: * of S3 and Azure, generation 0 of Google Cloud). Where its
    answer was lost and the next one is that there is an object, the content tells whose it is:
    `data` must be this writer's alone, so let it hold a random ID.

    Args:
        url: the object.
        data: its content, at most 64 MiB.

    Returns:
        Whether this call created it.

    Raises:
        StorageError: as `write_object`.
    """
    if len(data) > 2**26:
        raise ValueError("an object that is written in parts cannot be created by one writer alone")
    path, last = _writable(url), 1

    def create(filesystem: Any, attempt: int) -> None:
        nonlocal last
        last = attempt
        filesystem.pipe_file(path, data, mode="create")

    try:
        ask(url, create)
    except ConditionFailed:
        return last > 1 and read_object(url) == data
    return True


def delete_object(url: str) -> None:
    """Delete an object; none there is fine.

    Raises:
        StorageError: access is denied, or the server fails time and again.
    """
    path = _writable(url)
    try:
        ask(url, lambda filesystem, attempt: filesystem.rm_file(path))
    except MissingObject:
        return


def _writable(url: str) -> str:
    if scheme_of(url) == "hf":
        raise StorageError(f"{url}: Hugging Face is only read; write to s3://, gs:// or az://")
    return object_path(url)


def _remote_file(entry: dict[str, Any]) -> RemoteFile:
    version = next((str(entry[name]) for name in _VERSIONS if entry.get(name)), "")
    return RemoteFile(int(entry["size"]), version.strip('"'))
