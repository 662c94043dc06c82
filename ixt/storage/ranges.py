"""Read a range of an object in one request, and only of the version that was listed."""

from __future__ import annotations

from typing import Any


def read_range(
    filesystem: Any, scheme: str, path: str, offset: int, size: int | None, version: str
) -> bytes:
    """Ask once; raises whatever the cloud's library does."""
    end = None if size is None else offset + size
    if version and scheme == "s3":
        return _sync(filesystem, _s3, path, offset, end, version)
    if version and scheme in ("az", "abfs"):
        return _sync(filesystem, _azure, path, offset, size, version)
    extra: dict[str, Any] = {}
    if scheme == "gs" and version:
        extra["generation"] = version
    if scheme == "hf":
        extra["cache_type"] = "none"  # else each read fetches 5 MiB
    start = None if (offset, end) == (0, None) else offset
    data: bytes = filesystem.cat_file(path, start=start, end=end, **extra)
    return data


def _sync(filesystem: Any, read: Any, *words: Any) -> bytes:
    from fsspec.asyn import sync

    data: bytes = sync(filesystem.loop, read, filesystem, *words)
    return data


async def _s3(filesystem: Any, path: str, start: int, end: int | None, etag: str) -> bytes:
    bucket, key, _ = filesystem.split_path(path)
    part = f"bytes={start}-{'' if end is None else end - 1}"
    answer = await filesystem._call_s3(
        "get_object", Bucket=bucket, Key=key, Range=part, IfMatch=f'"{etag}"'
    )
    async with answer["Body"] as body:
        data: bytes = await body.read()
    return data


async def _azure(filesystem: Any, path: str, offset: int, size: int | None, etag: str) -> bytes:
    from azure.core import MatchConditions

    container, name, _ = filesystem.split_path(path)
    async with filesystem.service_client.get_blob_client(container=container, blob=name) as blob:
        stream = await blob.download_blob(
            offset=offset,
            length=size,
            etag=f'"{etag}"',
            match_condition=MatchConditions.IfNotModified,
            **filesystem._timeout_kwargs,
        )
        data: bytes = await stream.readall()
    return data
