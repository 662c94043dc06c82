"""Files that are whole or as they were, whatever kills the process or the machine.

Content reaches the disk before a name points at it: write beside it, fsync, rename, fsync the
folder.
"""

from __future__ import annotations

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Give a file new content in one step; readers and crashes see the old or the new.

    Raises:
        OSError: the disk is full or not writable; it names the file, whose old content stays.
    """
    beside = path.with_name(f".tmp-{path.name}")
    try:
        beside.write_text(text)
        fsync(beside)
        beside.rename(path)
    except OSError as error:
        # A failed write does not know its file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)
    fsync(path.parent)


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
