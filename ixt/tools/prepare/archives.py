"""Read tars as tables of byte ranges: where each file lies in the tar, and that it may be used.

Nothing is extracted here. A tar inside a tar is read as a range of the outer file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ixt.errors import DataError
from ixt.images.classes import VALIDATION_NAME
from ixt.images.folders import IMAGE_SUFFIXES, Split
from ixt.images.shard_bytes import of_descriptor
from ixt.images.tar_walk import walk_tar

CLASS_TAR = re.compile(r"(n\d{8})\.tar")

_COMPRESSED = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZ": "bzip2", b"\xfd7": "xz"}
_OTHERS = (
    (CLASS_TAR, "class tars: give it as --train"),
    (VALIDATION_NAME, "validation images: give it as --val"),
    (re.compile(r"ILSVRC2012_test_.*"), "test images, which have no labels and are not needed"),
    (re.compile(r".*\.xml|n\d{8}\.tar\.gz"), "bounding boxes, which are not needed"),
    (re.compile(r"ILSVRC2012_devkit.*|.*\.mat"), "the development kit, which is not needed"),
)


class Entry(NamedTuple):
    """A file in a tar."""

    name: str
    """Without the folders that it lies in."""
    offset: int
    """Its first byte, counted from the start of the outermost tar."""
    size: int
    """Its length in bytes."""


@contextmanager
def named(where: str | Path) -> Iterator[None]:
    """Give an OSError of the block a file name: reads and writes do not know theirs."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(where)) from error


def walk(descriptor: int, start: int, length: int, where: str) -> Iterator[Entry]:
    """Go through the files of a tar that lies in a byte range of an open file.

    Folders, and files whose name starts with a dot, are passed over.

    The file's own position is neither used nor moved; members are named without their folders.

    Raises:
        DataError: as `walk_tar`, or the tar holds a name twice.
        OSError: it cannot be read.
    """
    seen: set[str] = set()
    for member in walk_tar(of_descriptor(descriptor), start, length, where):
        name = os.path.basename(os.fsdecode(member.name))
        if name.startswith("."):
            continue
        if name in seen:
            raise DataError(f"{where}: holds {name} twice; get the tar again")
        seen.add(name)
        yield Entry(name, member.offset, member.size)


def class_tars(descriptor: int, path: Path) -> list[Entry]:
    """The class tars of the training tar, in the order they lie in it.

    Raises:
        DataError: it holds anything else, or is cut off.
    """
    members = []
    for member in walk(descriptor, 0, os.fstat(descriptor).st_size, str(path)):
        if not CLASS_TAR.fullmatch(member.name):
            raise DataError(_not_the_tar(path, "train", member.name))
        members.append(member)
    if not members:
        raise DataError(f"{path}: is an empty tar; give ILSVRC2012_img_train.tar")
    return members


def check_kind(descriptor: int, path: Path, split: Split) -> None:
    """Look at the first file of a tar, so that a wrong one is refused before it is read.

    Raises:
        DataError: it is no tar, or the tar of something else.
    """
    head = os.pread(descriptor, 2, 0)
    if head in _COMPRESSED:
        other = next((what for pattern, what in _OTHERS if pattern.fullmatch(path.name)), None)
        if other is not None:
            raise DataError(f"{path}: is not the tar for --{split}; it is {other}")
        raise DataError(
            f"{path}: is packed with {_COMPRESSED[head]}; the published image tars are not; "
            "unpack it to a .tar first"
        )
    first = next(walk(descriptor, 0, os.fstat(descriptor).st_size, str(path)), None)
    wanted = CLASS_TAR if split == "train" else VALIDATION_NAME
    if first is None or not wanted.fullmatch(first.name):
        raise DataError(_not_the_tar(path, split, first.name if first else "nothing"))


def check_image(member: Entry, where: str) -> None:
    """Refuse what is not named like an image.

    Raises:
        DataError: the file has another suffix.
    """
    if not member.name.lower().endswith(IMAGE_SUFFIXES):
        raise DataError(f"{where}: holds {member.name}, which is no image; get the tar again")


def _not_the_tar(path: Path, split: Split, name: str) -> str:
    wanted = "class tars (n01440764.tar)" if split == "train" else "ILSVRC2012_val_00000001.JPEG"
    for pattern, what in _OTHERS:
        if pattern.fullmatch(name):
            return f"{path}: holds {name}, not {wanted}; these are {what}"
    return f"{path}: holds {name}, not {wanted}; give ILSVRC2012_img_{split}.tar as --{split}"
