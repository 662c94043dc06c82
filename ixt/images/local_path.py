"""Whether a path that was given is one on this machine, or a URL."""

from __future__ import annotations

import re
from pathlib import Path

from ixt.errors import DataError

# pathlib makes one slash of two: s3://BUCKET comes out of a Path as s3:/BUCKET.
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+(?P<rest>.*)", re.DOTALL)


def as_url(path: str | Path) -> str | None:
    """The URL that was given, also where it has become a Path meanwhile; None for a path."""
    match = _URL.fullmatch(str(path))
    return f"{match['scheme']}://{match['rest']}" if match else None


def refuse_url(path: str | Path) -> None:
    """Refuse to write to a URL, which would otherwise become a folder named `s3:`.

    Raises:
        DataError: a URL was given.
    """
    url = as_url(path)
    if url is not None:
        raise DataError(f"{url}: is a URL; only places on this machine are written, give a path")


def local_path(path: str | Path) -> Path:
    """The absolute path on this machine.

    Raises:
        DataError: a URL was given.
    """
    refuse_url(path)
    return Path(path).expanduser().absolute()
