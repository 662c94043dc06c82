"""One run folder, one run: a second process that starts in it is refused."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ixt.errors import CheckpointError
from ixt.files import reason

_LOCK = ".lock"
_GLANCE_S = 0.1  # `is_locked` holds a lock for an instant
# Lustre without -o flock, FUSE file systems, NFS without its lock service.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_log = logging.getLogger("ixt")


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Make a run folder and lock it for the duration of a `with` block.

    The first process of a run holds it for all of them. The lock is the kernel's (flock), so a
    killed owner never blocks the next one; Linux passes it on to the server on NFS, where it
    holds between machines. The file stays behind: deleting it would let two owners in.

    Raises:
        CheckpointError: another process trains there, or the folder cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        first = os.environ.get("RANK", "0") == "0"
        stream = (run_dir / _LOCK).open("a+") if first else None
    except OSError as error:
        raise CheckpointError(
            f"{run_dir}: cannot write there: {reason(error)}; give another --run-dir"
        ) from error
    if stream is None:
        yield
        return
    with stream:
        _take(stream, run_dir)
        yield


def is_locked(run_dir: Path) -> bool | None:
    """Whether a living process trains in a folder; None where the file system does not say."""
    try:
        descriptor = os.open(run_dir / _LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return False if isinstance(error, FileNotFoundError) else None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return True if isinstance(error, BlockingIOError) else None
    finally:
        os.close(descriptor)
    return False


def _take(stream: IO[str], run_dir: Path) -> None:
    try:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_GLANCE_S)
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CheckpointError(
            f"{run_dir}: {_owner(stream)} is training in this folder; wait until it ends, stop "
            "it, or give another --run-dir"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning(
            "%s: this file system has no locks; do not start a second run in this folder", run_dir
        )
    owner = {"host": socket.gethostname(), "pid": os.getpid()}
    with suppress(OSError):  # on a full disk the lock holds all the same
        stream.truncate(0)
        os.write(stream.fileno(), json.dumps(owner).encode())


def _owner(stream: IO[str]) -> str:
    stream.seek(0)
    try:
        owner = json.loads(stream.read())
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):  # it has not yet written its name
        return "another process"
