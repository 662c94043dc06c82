"""Where an export is written: under a temporary name first, and never over anything else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ixt.errors import ExportError

# What may be in a folder for --overwrite to replace it.
_OWN = {"config.json", "model.safetensors", "README.md", "recipe.yaml"}


def facts_beside(file: Path) -> Path:
    """The JSON file that tells what a file of bare weights cannot."""
    return file.with_name(f"{file.name}.json")


def check_place(out: Path, *, folder: bool, overwrite: bool, source: Path) -> None:
    """Refuse a place that is taken, before any work is done.

    Args:
        out: where the export goes.
        folder: whether it is a folder.
        overwrite: replace an earlier export.
        source: the file that is exported, which must stay.

    Raises:
        ExportError: there is something that may not be replaced.
    """
    taken = [path for path in (out, facts_beside(out)) if path.exists()]
    if taken and not overwrite:
        raise ExportError(f"{taken[0]}: exists already; give another name, or add --overwrite")
    if not out.exists():
        return
    if out.is_dir() != folder:
        wanted, found = ("folder", "file") if folder else ("file", "folder")
        raise ExportError(f"{out}: is a {found}, this format is a {wanted}; give another name")
    if source.resolve() in (out.resolve(), *(p.resolve() for p in out.glob("*") if folder)):
        raise ExportError(f"{out}: is what is exported; give another name")
    other = sorted(path.name for path in out.iterdir() if path.name not in _OWN) if folder else []
    if other:
        raise ExportError(
            f"{out}: holds more than an export ({other[0]}), so it is not replaced; "
            "give another name"
        )


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A path beside `out` to write to; takes the place of `out` at the end, or leaves nothing.

    Yields:
        A path in an empty folder; it may become a file or a folder. Files beside it in that folder
        are moved beside `out`.
    """
    work = out.parent / f".tmp-{out.name}-{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        yield work / out.name
        companions = [path for path in work.iterdir() if path.name != out.name]
        for path in (*companions, work / out.name):
            _move(path, out.with_name(path.name), work)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExportError(f"{out}: cannot be written: {reason}; nothing is left of it") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move(path: Path, target: Path, work: Path) -> None:
    """Rename into place; a folder that is there moves out of the way and goes with `work`."""
    if target.is_dir():
        target.rename(work / f"old-{target.name}")
    path.replace(target)
