"""Where a split grows before it may be seen, and how it becomes visible.

Images are written below OUT/.prepare/SPLIT and moved to OUT/SPLIT when all of them are there and
the tar's sum is right: by one rename where OUT/SPLIT is new, file by file where it was begun by
others. So OUT/SPLIT never shows half an image, and a new one never half a set.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ixt.errors import DataError
from ixt.files import read_json, replace_text
from ixt.images.folders import SPLIT_FOLDERS, Split

RECORD = "prepared.json"

_LOG = logging.getLogger(__name__)
_FOLDER = ".prepare"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Origin:
    """Which file or folder images come from; another one never continues where it stopped."""

    name: str
    """File name of a tar, which may be moved meanwhile; path of a folder."""
    num_bytes: int
    mtime_ns: int
    """0 for a folder."""


@dataclass(frozen=True)
class Held:
    """An image that lies in OUT already."""

    path: Path
    size: int
    published: bool
    """It can be seen, in OUT/SPLIT."""


@dataclass(frozen=True)
class Place:
    """The two folders of a split."""

    final: Path
    staged: Path
    survived: bool
    """The machine has run on since staging began, so a file of full size has its content."""

    def held(self, class_name: str) -> dict[str, Held]:
        """Images of a class that are there, by name."""
        found = _files(self.final / class_name, published=True)
        return found | _files(self.staged / class_name, published=False)

    def num_bytes(self) -> int:
        """Bytes of the images that are there."""
        return sum(num_bytes_below(folder) for folder in (self.final, self.staged))


@dataclass(frozen=True)
class Record:
    """What a finished split was made of; kept in OUT/prepared.json."""

    origin: Origin
    md5: str | None
    """The tar's sum, if it was compared with the published one."""
    counts: dict[str, int]


@contextmanager
def claimed(root: Path) -> Iterator[None]:
    """Make OUT and keep other processes off it while the block runs.

    Raises:
        DataError: another process prepares it, or it is a file.
    """
    if root.exists() and not root.is_dir():
        raise DataError(f"{root}: is a file; give the folder to fill")
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DataError(
            f"{root}: another `ixt data prepare` is at work in it; wait for it or end it"
        ) from error
    finally:
        os.close(descriptor)


def origin_of(path: Path) -> Origin:
    """Identify a tar by name, size and time; reading it all would take as long as using it."""
    status = path.stat()
    return Origin(path.name, status.st_size, status.st_mtime_ns)


def split_folder(root: Path, split: Split) -> Path:
    """OUT's folder of a split: the one that is there (val/ or validation/), or where to make it."""
    names = SPLIT_FOLDERS[split]
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def open_place(root: Path, split: Split, origin: Origin) -> Place:
    """Continue with what was staged from the same source; throw away what came from another.

    Raises:
        DataError: OUT/SPLIT is on another file system than OUT, or images staged from another
            folder wait there: they may have been moved, and be the only copy.
    """
    final, staged = split_folder(root, split), root / _FOLDER / split
    if final.exists() and final.stat().st_dev != root.stat().st_dev:
        raise DataError(
            f"{final}: is on another file system than {root}, so images cannot be moved into it "
            f"at once; give the folder above {final.resolve()} instead"
        )
    stamp = staged.with_suffix(".json")
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    begun = _begun(stamp, staged)
    if begun is None or begun["origin"] != asdict(origin):
        if staged.exists() and begun is not None and begun["origin"]["mtime_ns"] == 0:
            raise DataError(
                f"{staged}: holds images that came from {begun['origin']['name']}; give "
                f"--kaggle {begun['origin']['name']} to bring the rest, or put them elsewhere"
            )
        if staged.exists():
            _LOG.warning("%s: removing what was extracted from another source", staged)
            shutil.rmtree(staged)
        begun = {"origin": asdict(origin), "boot": boot}
        staged.parent.mkdir(exist_ok=True)
        _write_json(stamp, begun)
    staged.mkdir(exist_ok=True)
    return Place(final, staged, survived=begun["boot"] == boot)


def _begun(stamp: Path, staged: Path) -> dict[str, Any] | None:
    """Where the staged images come from; None if nothing was begun.

    Raises:
        DataError: nobody knows; they may have been moved, and be the only copy.
    """
    if not stamp.exists():
        return None
    try:
        begun: dict[str, Any] = read_json(stamp)
        Origin(**begun["origin"]), str(begun["boot"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{stamp}: is damaged, so nobody knows where the images in {staged} come from; delete "
            "both, or put the images elsewhere if they were moved there"
        ) from error
    return begun


def publish(staged: Path, final: Path) -> None:
    """Move a staged folder to where it is seen, into the one that is there if there is one."""
    if not os.path.lexists(final):
        os.rename(staged, final)
        return
    for entry in list(os.scandir(staged)):
        target = final / entry.name
        if entry.is_dir(follow_symlinks=False):
            publish(Path(entry.path), target)
        else:
            os.replace(entry.path, target)
    os.rmdir(staged)


def finish(root: Path, split: Split, place: Place, record: Record) -> None:
    """Publish a complete split; a process killed in here is finished by the next one."""
    os.sync()  # a power cut must not leave names without content
    write_record(root, split, record)
    publish(place.staged, place.final)
    is_published(root, split)


def is_published(root: Path, split: Split) -> bool:
    """Whether nothing staged of a split waits to be published; tidies up what a kill left."""
    folder = root / _FOLDER
    if (folder / split).exists():
        return False
    (folder / f"{split}.json").unlink(missing_ok=True)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()
    return True


def packed_place(root: Path, folder: Path) -> Place:
    """Where class tars that lie in a train folder are extracted; each is published on its own."""
    return Place(folder, root / _FOLDER / "packed", survived=True)


def read_record(root: Path, split: Split) -> Record | None:
    """What a finished split was made of, if it is known."""
    kept = _records(root).get(split)
    try:
        return Record(Origin(**kept["origin"]), kept["md5"], kept["counts"]) if kept else None
    except (KeyError, TypeError):
        return None


def write_record(root: Path, split: Split, record: Record) -> None:
    """Keep what a split was made of."""
    _write_json(root / RECORD, _records(root) | {split: asdict(record)})


def num_bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder; 0 if it is not there."""
    total = 0
    for top, _, names in os.walk(folder):
        total += sum(os.lstat(os.path.join(top, name)).st_size for name in names)
    return total


def _records(root: Path) -> dict[str, Any]:
    try:
        kept = read_json(root / RECORD)
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write_json(path: Path, content: object) -> None:
    replace_text(path, json.dumps(content, indent=1) + "\n")


def _files(folder: Path, published: bool) -> dict[str, Held]:
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name: Held(Path(entry.path), entry.stat().st_size, published)
                for entry in entries
                if entry.is_file()
            }
    except FileNotFoundError:
        return {}
