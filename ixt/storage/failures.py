"""What an error of a cloud's library means: HTTP status, whether to ask again, what to do.

The libraries are not imported here: which of them is installed differs from machine to machine.
"""

from __future__ import annotations

from http.client import HTTPException
from typing import Literal

from ixt.storage.urls import scheme_of, service_of

_LIBRARIES = frozenset(
    ("aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "httpcore", "httpx",
        "httpx2",
     "huggingface_hub", "requests", "s3fs")
)  # fmt: skip
_STATUS_NAMES = {"azure": "status_code", "gcsfs": "code", "aiohttp": "status"}
# 409 is of S3: another writer creates the same object at this moment, so who wins is not known yet.
_TRANSIENT = frozenset((408, 409, 425, 429))
_CHANGED = 412
_LOST = ("ConnectionError", "HTTPClientError", "ServiceRequestError", "ServiceResponseError",
         "ClientConnectionError", "ClientPayloadError", "TransportError", "IncompleteReadError",
         "ResponseParserError")  # fmt: skip
_CREDENTIALS = ("credential", "connection_string or account_name", "token", "expired", "profile")
_REGION = (
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraint",
    "region",
)


Verdict = Literal["condition failed", "missing", "again", "final"]
"""What an error means: an object exists, or is another one; it or its bucket is not there; another
attempt may succeed; or none will."""


def is_of_a_cloud(error: Exception) -> bool:
    """Whether an exception is about the network or a server, and no mistake of ours."""
    modules = (kind.__module__.partition(".")[0] for kind in type(error).__mro__)
    known = isinstance(error, OSError | HTTPException) or not _LIBRARIES.isdisjoint(modules)
    return known or (isinstance(error, ValueError) and _is_bad_request(error))


def _is_bad_request(error: ValueError) -> bool:
    """Whether gcsfs or adlfs raised it, or the Hub's library: their ValueErrors are for users."""
    return str(error).startswith(("Bad Request", "unable to connect to account", "Repository id"))


def status_of(error: BaseException) -> int | None:
    """HTTP status of an error or of what caused it; None where the server gave none."""
    seen: BaseException | None = error
    while seen is not None:
        status = _own_status(seen)
        if status is not None:
            return status
        seen = seen.__cause__
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # of gcsfs
        return 403
    return None


def _own_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return int(status) if status is not None else None
    if response is not None:  # Hugging Face
        return getattr(response, "status_code", None)
    # Elsewhere such names may mean anything: aiohttp calls a cut answer 400.
    name = _STATUS_NAMES.get(type(error).__module__.partition(".")[0], "")
    if name == "status" and type(error).__name__ != "ClientResponseError":
        return None
    status = str(getattr(error, name, ""))
    return int(status) if status.isdigit() else None


def judge(error: Exception, status: int | None) -> Verdict:
    """Whether another attempt may succeed, and if not, why."""
    if isinstance(error, FileExistsError) or status == _CHANGED:
        return "condition failed"
    if status is not None:
        again = status >= 500 or status in _TRANSIENT
        return "again" if again else "missing" if status == 404 else "final"
    if isinstance(error, FileNotFoundError):
        return "missing"
    names = {kind.__name__ for kind in type(error).__mro__}
    lost = not names.isdisjoint(_LOST) or isinstance(error, OSError | HTTPException)
    return "again" if lost and not isinstance(error, PermissionError) else "final"


def explain(url: str, error: Exception, status: int | None) -> str:
    """What a permanent error means, and what to do."""
    text, service = describe(error, status), service_of(url)
    where = f"{text} {getattr(error.__cause__, 'response', '')}"
    if scheme_of(url) == "s3" and any(word in where for word in _REGION):
        return (
            f"the bucket lies in another region ({text}); set AWS_DEFAULT_REGION to the region "
            "of the bucket"
        )
    if status in (401, 403) or any(word in text.lower() for word in _CREDENTIALS):
        return f"access denied ({text}); set {service.credentials}, of a user who may do this"
    if judge(error, status) == "missing":
        return f"no such object or bucket ({text}); check the URL and {service.endpoint}"
    return text


def describe(error: Exception, status: int | None) -> str:
    """The first line of what the server or the library says."""
    text = (getattr(error, "strerror", None) or str(error)).strip()
    words = text.splitlines()[0] if text else type(error).__name__
    return f"HTTP status {status}: {words}" if status is not None else words
