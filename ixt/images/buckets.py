"""Objects of a bucket: list them, read parts of them, with retries that end in a clear error.

fsspec and s3fs do the talking, with the usual AWS credentials and AWS_ENDPOINT_URL. Their own
retries are switched off: two loops within each other would wait for minutes and count wrongly.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from typing import Any, TypeVar

from ixt.errors import DataError

logger = logging.getLogger("ixt")

T = TypeVar("T")

_ATTEMPTS_IN_SILENCE = 3
_SECONDS_BETWEEN_WARNINGS = 10.0
_TRANSIENT = frozenset((408, 425, 429))
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


@dataclass(frozen=True)
class RetryPolicy:
    """How long requests to a bucket are repeated before a run stops: about a minute in total."""

    attempts: int = 10
    first_wait_s: float = 0.2
    """Longest wait after the first attempt; it doubles with each further one."""
    longest_wait_s: float = 30.0
    timeout_s: float = 30.0
    """Longest silence of the server within an attempt."""


POLICY = RetryPolicy()


@dataclass(frozen=True)
class RemoteFile:
    """An object as a listing shows it."""

    size: int
    """Bytes."""
    etag: str
    """Changes with the content."""


def read_remote(url: str, offset: int = 0, size: int | None = None) -> bytes:
    """Read a part of an object, or all of it.

    Raises:
        DataError: the object is missing, access is denied, or the server fails time and again.
    """
    end = None if size is None else offset + size
    if size == 0:  # no range of HTTP is empty
        return b""

    def read(filesystem: Any) -> bytes:
        data: bytes = filesystem.cat_file(url, start=offset, end=end)
        if size is not None and len(data) != size:
            raise ConnectionError(f"{len(data)} of {size} bytes were received")
        return data

    return _retry(url, read)


def list_remote(url: str) -> dict[str, RemoteFile]:
    """List the objects below a URL, by their name behind it; empty if there are none.

    Raises:
        DataError: access is denied, or the server fails time and again.
    """
    path = url.split("://", 1)[1].rstrip("/")

    def find(filesystem: Any) -> dict[str, Any]:
        filesystem.invalidate_cache(path)
        found: dict[str, Any] = filesystem.find(path, detail=True)
        return found

    return {
        name.removeprefix(path + "/"): RemoteFile(entry["size"], str(entry["ETag"]).strip('"'))
        for name, entry in _retry(url, find).items()
    }


def _retry(url: str, ask: Callable[[Any], T]) -> T:
    """Repeat a request until the server answers, with growing waits that differ between threads."""
    filesystem = _filesystem()
    from aiohttp import ClientError as ConnectionLost
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    errors = (OSError, HTTPException, BotoCoreError, ClientError, ConnectionLost)
    for attempt in range(1, POLICY.attempts + 1):
        try:
            answer = ask(filesystem)
            _OUTAGE.end()
            return answer
        except (*errors, ResponseParserError) as error:
            status = _status(error)
            if not _is_transient(error, status):
                raise DataError(f"{url}: {_explain(error, status)}") from error
            longest_s = min(POLICY.first_wait_s * 2 ** (attempt - 1), POLICY.longest_wait_s)
            wait_s = random.uniform(0.5, 1.0) * longest_s
            if attempt == POLICY.attempts:
                _OUTAGE.give_up()
            elif attempt >= _ATTEMPTS_IN_SILENCE:
                _OUTAGE.warn(f"{url}: {_describe(error, status)}; retrying in {wait_s:.1f} s")
            if _OUTAGE.is_given_up_within(wait_s):
                raise DataError(
                    f"{url}: {_describe(error, status)} in the last of {attempt} attempts; check "
                    "the network and the server, then try again (a run continues with --resume)"
                ) from error
    raise AssertionError("the last attempt returns or raises")


class _Outage:
    """What reading threads share about a failing server, so that they warn and give up together."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._warned_s = -math.inf
        self._given_up = False

    def warn(self, text: str) -> None:
        """Warn, unless another thread has just done so."""
        with self._changed:
            now_s = time.monotonic()
            if now_s - self._warned_s < _SECONDS_BETWEEN_WARNINGS:
                return
            self._warned_s = now_s
        logger.warning("%s", text)

    def is_given_up_within(self, wait_s: float) -> bool:
        """Wait; True, and at once, where a read was given up and none has succeeded since.

        The run then stops, and further attempts would only delay its end.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._given_up, wait_s)

    def give_up(self) -> None:
        """End the waits of all threads."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def end(self) -> None:
        """The server answers."""
        self._given_up = False


_OUTAGE = _Outage()


def _status(error: BaseException) -> int | None:
    """HTTP status of an error or of what caused it."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return int(status) if status is not None else None
        seen = seen.__cause__
    return None


def _is_transient(error: Exception, status: int | None) -> bool:
    """Whether another attempt may succeed."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionError,
        HTTPClientError,
    )

    if status is not None:
        return status >= 500 or status in _TRANSIENT
    if isinstance(error, HTTPClientError | ConnectionError):
        return True
    return not isinstance(error, BotoCoreError | ClientError | FileNotFoundError | PermissionError)


def _explain(error: Exception, status: int | None) -> str:
    """What a permanent error means, and what to do."""
    text = _describe(error, status)
    if status in (401, 403) or "credentials" in text.lower():
        return (
            f"access denied ({text}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE, of a user with read permission"
        )
    if status == 404 or isinstance(error, FileNotFoundError):
        return f"no such object or bucket ({text}); check the URL and AWS_ENDPOINT_URL"
    return text


def _describe(error: Exception, status: int | None) -> str:
    text = (getattr(error, "strerror", None) or str(error)).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    return f"HTTP status {status}: {reason}" if status is not None else reason


def _filesystem() -> Any:
    """The file system for the endpoint that the environment names now."""
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)
    return _connect(endpoint, POLICY.timeout_s)


@lru_cache
def _connect(endpoint: str | None, timeout_s: float) -> Any:
    try:
        from s3fs import S3FileSystem
    except ImportError as error:
        raise DataError(
            "data in a bucket needs s3fs, which is not installed; pip install 'ixt[s3]'"
        ) from error
    filesystem = S3FileSystem(
        endpoint_url=endpoint,
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "connect_timeout": timeout_s,
            "read_timeout": timeout_s,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "max_pool_connections": 64,
        },
    )
    filesystem.retries = 1
    return filesystem
