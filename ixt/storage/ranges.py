"""Read a range of an object in one request, and only of the version that was listed."""

from __future__ import annotations

import time
from typing import Any

_SIGNED: dict[tuple[Any, str, str, float], str] = {}
"""URLs of S3 that hold a signature, by client, bucket, name and the minutes that they are for."""
_SIGNED_S = 300.0  # botocore renews a user's short-lived keys at least 10 minutes before their end
_MOST_SIGNED = 4096


def read_range(
    filesystem: Any, scheme: str, path: str, offset: int, size: int | None, version: str
) -> bytes:
    """Ask once; raises whatever the cloud's library does."""
    end = None if size is None else offset + size
    if scheme == "s3":
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
    """Through a signed URL: a request takes a quarter of the CPU time that get_object does."""
    from botocore.awsrequest import AWSPreparedRequest, HeadersDict
    from botocore.exceptions import ClientError
    from botocore.parsers import create_parser
    from s3fs.errors import translate_boto_error

    bucket, key, _ = filesystem.split_path(path)
    await filesystem.set_session()
    client = await filesystem.get_s3(bucket)
    part = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end else {}
    headers = HeadersDict(part | ({"If-Match": f'"{etag}"'} if etag else {}))
    url = await _signed_url(client, bucket, key)
    request = AWSPreparedRequest("GET", url, headers, None, False)
    answer = await client._endpoint.http_session.send(request)
    data: bytes = await answer.content
    if answer.status_code >= 300:
        _SIGNED.clear()
        told = {"status_code": answer.status_code, "headers": answer.headers, "body": data}
        error = ClientError(create_parser("rest-xml").parse(told, None), "GetObject")
        raise translate_boto_error(error) from error
    return data


async def _signed_url(client: Any, bucket: str, key: str) -> str:
    """A URL of an object for the next minutes, for any of its ranges."""
    place = client, bucket, key, time.time() // _SIGNED_S
    if place not in _SIGNED:
        if len(_SIGNED) >= _MOST_SIGNED:
            _SIGNED.clear()
        client.meta.events.register_first(
            "choose-signer.s3.GetObject", _signature_version, unique_id="ixt"
        )
        words = {"Bucket": bucket, "Key": key}
        _SIGNED[place] = await client.generate_presigned_url(
            "get_object", words, int(2 * _SIGNED_S)
        )
    return _SIGNED[place]


def _signature_version(signature_version: str, **_: Any) -> str | None:
    """Version 4 for URLs: botocore takes version 2 in old regions, which newer buckets refuse."""
    return "s3v4-query" if signature_version == "v4-query" else None


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
