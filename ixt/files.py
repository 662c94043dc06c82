"""Files on this machine: written whole or not at all, named in errors the same way everywhere.

Content reaches the disk before a name points at it: write beside it, fsync, rename, fsync the
folder. Whatever kills the process or the machine, a reader finds the old content or the new.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ixt.errors import DataError, first_line

# pathlib makes one slash of two: s3://BUCKET comes out of a Path as s3:/BUCKET.
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+(?P<rest>.*)", re.DOTALL)


@contextmanager
def published(path: Path, *, unique: bool = False) -> Iterator[Path]:
    """A hidden path beside `path` to write a file or a folder to; it gets the name at the end.

    A block that raises leaves nothing, and `path` as it was.

    Args:
        path: the name to publish; a file there is replaced, a folder there is an error.
        unique: write under a name of this call's own, where several processes may write at once.

    Raises:
        OSError: the disk is full or not writable; it names a file.
    """
    mark = f"-{uuid.uuid4().hex}" if unique else ""
    beside = path.with_name(f".tmp-{path.name}{mark}")
    try:
        yield beside
        sync(beside)
        beside.replace(path)
    except OSError as error:
        # A failed write does not know its file.
        raise OSError(error.errno, error.strerror, str(error.filename or path)) from error
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)
    fsync(path.parent)


def replace_text(path: Path, text: str, *, unique: bool = False) -> None:
    """Give a file new content in one step; readers and crashes see the old or the new.

    On `unique` see `published`.

    Raises:
        OSError: the disk is full or not writable; it names the file, whose old content stays.
    """
    with published(path, unique=unique) as beside:
        beside.write_bytes(_encoded(text))


def check_outputs(*paths: Path | None) -> None:
    """Refuse result files that could not be written, before the work whose results they hold.

    Raises:
        DataError: a path is a URL or a folder, lies below a file, or is not writable.
    """
    for path in filter(None, paths):
        refuse_url(path)
        try:
            place = next(place for place in (path, *path.absolute().parents) if place.exists())
        except OSError as error:  # e.g. a name that is too long
            raise DataError(f"{path}: cannot be written ({reason(error)})") from error
        if path.is_dir():
            raise DataError(f"{path}: is a folder; give the name of a file")
        if place != path and not place.is_dir():
            raise DataError(f"{path}: cannot be written: {place} is no folder; give another name")
        if not _in_place(place) and not place.is_dir():
            place = place.parent
        if not os.access(place, os.W_OK):
            raise DataError(f"{path}: cannot be written: {place} is read-only; give another name")


def write_text(path: Path, text: str) -> None:
    """Write a result file in one step, making its folder; links and devices are written in place.

    Raises:
        DataError: it cannot be written, or is a URL.
    """
    with _result_file(path), nullcontext(path) if _in_place(path) else published(path) as file:
        file.write_bytes(_encoded(text))


def write_json(path: Path, content: object) -> None:
    """Write a result file as indented JSON; see `write_text`."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or nested so deeply that Python gives up.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None


def append_line(path: Path, text: str) -> None:
    """Add to a result file, on a line of its own, so that others may add to it as well.

    Raises:
        DataError: it cannot be written, or is a URL.
    """
    with _result_file(path), path.open("ab+") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            text = text if stream.read() == b"\n" else "\n" + text
        stream.write(_encoded(text + "\n"))


@contextmanager
def _result_file(path: Path) -> Iterator[None]:
    refuse_url(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({reason(error)})") from error


def _in_place(path: Path) -> bool:
    """Whether replacing a path would cut it off from what it stands for, e.g. /dev/stdout."""
    return path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir())


def _encoded(text: str) -> bytes:
    """UTF-8; names of files may hold bytes that are no text, which stay as they are."""
    return text.encode("utf-8", errors="surrogateescape")


def sync(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk.

    Raises:
        OSError: it cannot be written there.
    """
    if path.is_dir():
        for entry in path.iterdir():
            sync(entry)
    fsync(path)


def fsync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk.

    Raises:
        OSError: they cannot be written there.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: BaseException) -> str:
    """Why a file could not be read or written, in the system's words: `permission denied`."""
    return (getattr(error, "strerror", None) or first_line(error)).lower()


def as_url(path: str | Path) -> str | None:
    """The URL that was given, also where it has become a Path meanwhile; None for a path."""
    match = _URL.fullmatch(str(path))
    return f"{match['scheme']}://{match['rest']}" if match else None


def refuse_url(path: str | Path, *, reads: bool = False) -> None:
    """Refuse a URL, which would otherwise become a folder named `s3:`.

    Args:
        path: what was given.
        reads: whether it is to be read; else it is to be written.

    Raises:
        DataError: a URL was given.
    """
    url = as_url(path)
    if url is not None and reads:
        raise DataError(
            f"{url}: is a URL; only files of this machine are read here, so download it first "
            "(a run in a bucket has the names of a run's folder) and give the path"
        )
    if url is not None:
        raise DataError(f"{url}: is a URL; only places on this machine are written, give a path")


def local_path(path: str | Path) -> Path:
    """The absolute path on this machine.

    Raises:
        DataError: a URL was given, or ~NAME of no user.
    """
    refuse_url(path)
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise DataError(f"{path}: no user has that name, or no home; give another path") from error


def read_regular(path: Path, at_most: int = 2**28) -> bytes:
    """The content of a small file; a pipe or a device is refused without a wait for its bytes.

    Raises:
        OSError: it cannot be read, is no regular file, or has more bytes than `at_most`.
    """
    # Without O_NONBLOCK, opening a named pipe would wait for its writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        refuse_irregular(file.fileno(), path)
        if os.fstat(file.fileno()).st_size > at_most:
            raise OSError(errno.EFBIG, f"has more than {at_most:,} bytes", str(path))
        return file.read()


def refuse_irregular(descriptor: int, path: str | Path) -> None:
    """Refuse an open pipe, device or folder.

    Raises:
        OSError: it is no regular file.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def size_text(num_bytes: float) -> str:
    """A number of bytes in the unit in which it is at least 1: `3.5 MiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:,.0f} bytes" if unit == "bytes" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} GiB"


def user_cache_folder() -> Path | None:
    """The folder of ixt in the user's cache; None for a container's user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ixt"
    except RuntimeError:
        return None
