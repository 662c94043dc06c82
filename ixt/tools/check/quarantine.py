"""Move broken files out of the way, and back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ixt.errors import DataError
from ixt.files import reason

FOLDER = ".quarantine"
RESTORE_LIST = "restore.jsonl"


def quarantine(root: Path, files: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Move files to ROOT/.quarantine/, keeping their relative paths.

    Each move is written to ROOT/.quarantine/restore.jsonl before it is made, so a call that was
    cut off can be undone, too.

    `files` are paths relative to the root, and the reason for each.

    Returns:
        (from, to) of each file moved, relative to root.

    Raises:
        DataError: a file cannot be moved; those before it are, and are listed.
    """
    moved: list[tuple[str, str]] = []
    for path, why in files:
        target = _free(root, f"{FOLDER}/{path}")
        try:
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            with (root / FOLDER / RESTORE_LIST).open("a", encoding="utf-8") as stream:
                row = {"from": path, "to": target, "reason": why}
                stream.write(json.dumps(row) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            shutil.move(root / path, root / target)
        except OSError as error:
            raise _cannot_move(root / path, error, len(moved)) from error
        moved.append((path, target))
    return moved


def restore(root: Path) -> list[tuple[str, str]]:
    """Move everything in quarantine back to where it was; the list is removed with the last one.

    Returns:
        (from, to) of each file moved back, relative to root.

    Raises:
        DataError: nothing is in quarantine, another file has taken a place, or cannot be moved.
    """
    listed = root / FOLDER / RESTORE_LIST
    if not listed.is_file():
        raise DataError(f"{root}: nothing to restore; there is no {FOLDER}/{RESTORE_LIST}")
    rows = [(to, origin) for origin, to in _read_list(listed) if os.path.lexists(root / to)]
    for _, origin in rows:
        if os.path.lexists(root / origin):
            raise DataError(f"{root / origin}: another file has taken its place; move it first")
    moved: list[tuple[str, str]] = []
    for held, origin in rows:
        try:
            (root / origin).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(root / held, root / origin)
        except OSError as error:
            raise _cannot_move(root / held, error, len(moved)) from error
        moved.append((held, origin))
    listed.unlink()
    _remove_empty_folders(root / FOLDER)
    return moved


def _read_list(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut off before its file was moved
            continue
        yield row["from"], row["to"]


def _free(root: Path, path: str) -> str:
    """The path, or with a number behind it where an earlier file of that name is in quarantine."""
    candidate, number = path, 0
    while os.path.lexists(root / candidate):
        number += 1
        candidate = f"{path}.{number}"
    return candidate


def _remove_empty_folders(top: Path) -> None:
    for folder, _, _ in os.walk(top, topdown=False):
        if not os.listdir(folder):
            os.rmdir(folder)


def _cannot_move(path: Path, error: OSError, num_moved: int) -> DataError:
    before = f" ({num_moved} files before it were)" if num_moved else ""
    return DataError(
        f"{path}: cannot be moved ({reason(error)}){before}; allow writing, then try again"
    )
