"""The fsspec file system of each cloud: with the usual variables, and without retries of its own.

Two loops of retries within each other would wait for minutes and count wrongly.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from types import MethodType
from typing import Any

from ixt.errors import StorageError
from ixt.storage.urls import scheme_of, service_of

_S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_ENVIRONMENT = ("AWS_", "GOOGLE_", "STORAGE_EMULATOR_HOST", "AZURE_", "HF_")
_NUM_CONNECTIONS = 64


def filesystem_of(url: str, timeout_s: float) -> Any:
    """The file system for a URL, as the environment describes it now.

    Args:
        url: of a bucket.
        timeout_s: longest silence of the server.

    Raises:
        StorageError: its library is not installed, or the environment names no account.
    """
    # Another endpoint or another user is another connection.
    settings = tuple(
        sorted(item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT))
    )
    try:
        return _connect(scheme_of(url), timeout_s, settings)
    except ImportError as error:
        extra = service_of(url).extra
        raise StorageError(
            f"{url}: needs {error.name or extra}, which is not installed; "
            f"pip install 'ixt[{extra}]'"
        ) from error


@lru_cache
def _connect(scheme: str, timeout_s: float, settings: tuple[tuple[str, str], ...]) -> Any:
    makers: dict[str, Callable[[float], Any]] = {"s3": _s3, "gs": _gcs, "hf": _hf}
    return makers.get(scheme, _azure)(timeout_s)


def _s3(timeout_s: float) -> Any:
    from s3fs import S3FileSystem

    filesystem = S3FileSystem(
        endpoint_url=next(filter(None, map(os.environ.get, _S3_ENDPOINTS)), None),
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "connect_timeout": timeout_s,
            "read_timeout": timeout_s,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "max_pool_connections": _NUM_CONNECTIONS,
        },
    )
    filesystem.retries = 1
    return filesystem


def _gcs(timeout_s: float) -> Any:
    from gcsfs.core import GCSFileSystem  # the one without gRPC, which no emulator speaks

    endpoint = os.environ.get("STORAGE_EMULATOR_HOST")
    filesystem = GCSFileSystem(
        endpoint_url=endpoint,
        token="anon" if endpoint else None,
        requests_timeout=timeout_s,
        consistency="md5",
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    for name in ("_request", "_get_file_request"):  # what its decorator for retries wraps
        asked_once = getattr(getattr(GCSFileSystem, name), "__wrapped__", None)
        if asked_once is not None:
            setattr(filesystem, name, MethodType(asked_once, filesystem))
    return filesystem


def _azure(timeout_s: float) -> Any:
    from adlfs import AzureBlobFileSystem

    filesystem = AzureBlobFileSystem(
        connection_timeout=timeout_s,
        read_timeout=timeout_s,
        # False would send requests of nobody where there is an account name only.
        anon=None,
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    # It logs a paragraph on each way to log in; the error has its first line.
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    filesystem._timeout_kwargs["retry_total"] = 0  # handed to each read and write
    return filesystem


def _hf(timeout_s: float) -> Any:
    # Its limits and repeats are its own (HF_HUB_DOWNLOAD_TIMEOUT): there is no way to hand it ours.
    from huggingface_hub import HfFileSystem

    return HfFileSystem(
        endpoint=os.environ.get("HF_ENDPOINT"), use_listings_cache=False, skip_instance_cache=True
    )
