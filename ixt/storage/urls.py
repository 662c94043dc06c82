"""Which URLs name places in buckets, and what each cloud needs to be reached."""

from __future__ import annotations

from dataclasses import dataclass

from ixt.errors import StorageError


@dataclass(frozen=True)
class Service:
    """What a message about a cloud names."""

    extra: str
    """The extra of ixt that installs its library."""
    credentials: str
    """The variables with which a user is known to it."""
    endpoint: str
    """The variable that names another server of the same kind."""


_S3 = Service(
    "s3", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE", "AWS_ENDPOINT_URL"
)
_GCS = Service(
    "gcs",
    "GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login",
    "STORAGE_EMULATOR_HOST",
)
_AZURE = Service(
    "azure",
    "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY "
    "or AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
)
_HF = Service("hf", "HF_TOKEN, or run hf auth login", "HF_ENDPOINT")

SERVICES = {"s3": _S3, "gs": _GCS, "az": _AZURE, "abfs": _AZURE, "hf": _HF}
"""The clouds by the scheme of their URLs."""

REMOTE_FORMS = "s3://, gs://, az:// or hf://"
"""The URLs that are read, for messages."""

_PREFIXES = tuple(f"{scheme}://" for scheme in SERVICES)


def is_remote(path: str) -> bool:
    """Whether a path is the URL of a place in a bucket."""
    return path.startswith(_PREFIXES)


def scheme_of(url: str) -> str:
    """The scheme of a URL for which `is_remote` holds: `s3`."""
    return url.partition("://")[0]


def service_of(url: str) -> Service:
    """The cloud of a URL for which `is_remote` holds."""
    return SERVICES[scheme_of(url)]


def object_path(url: str) -> str:
    """A URL without its scheme and without a slash at its end: BUCKET/PREFIX.

    Raises:
        StorageError: it names no bucket, or an account, which comes from the environment.
    """
    path = url.partition("://")[2].rstrip("/")
    bucket = path.partition("/")[0]
    if not bucket:
        scheme = scheme_of(url)
        raise StorageError(f"{url}: contains no bucket name; give {scheme}://BUCKET/PREFIX")
    if "@" in bucket:
        raise StorageError(
            f"{url}: names an account behind an @; give {scheme_of(url)}://CONTAINER/PREFIX, and "
            "the account in AZURE_STORAGE_ACCOUNT_NAME"
        )
    return path
