"""Find the image files of a split in ImageNet layout: ROOT/train/CLASS/..., ROOT/val/CLASS/...

Names only; `headers` opens the files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar

from ixt.errors import DataError
from ixt.files import read_regular, reason

Split = Literal["train", "val"]
_Name = TypeVar("_Name", str, bytes)

SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "validation")}
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")

_SUFFIXES = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
_LABEL = b".cls"
_FEW_LABELS = 64
_NUM_THREADS = 16  # listing a network folder waits for the server, not for the CPU


@dataclass(frozen=True)
class Listing:
    """The image files of a split, ordered by class and then by path, byte by byte."""

    classes: tuple[str, ...]
    """Names of the class folders."""
    counts: tuple[int, ...]
    """Files of each class."""
    names: list[bytes]
    """Paths relative to the split's folder."""
    folders: dict[str, int]
    """Modification time (ns), before it was listed, of each folder relative to the split's."""


@dataclass
class _ClassFiles:
    """What one class folder holds; grows while it is walked."""

    files: list[bytes] = field(default_factory=list)
    labels: list[bytes] = field(default_factory=list)
    folders: dict[str, int] = field(default_factory=dict)


def find_split(root: Path, split: Split) -> Path:
    """Folder of a split below the data root.

    Class folders beside no train/ and no val/ are training images, too: then it is the root.

    Raises:
        DataError: root is not a folder, or contains no folder of that split.
    """
    names = SPLIT_FOLDERS[split]
    if not root.exists():
        raise DataError(f"{root}: no such folder; give the folder that contains train/ and val/")
    if not root.is_dir():
        raise DataError(f"{root}: not a folder; give the folder that contains train/ and val/")
    for name in names:
        if (root / name).is_dir():
            return root / name
    wanted = " or ".join(f"{name}/" for name in names)
    if root.name in chain.from_iterable(SPLIT_FOLDERS.values()):
        raise DataError(
            f"{root}: contains no {wanted}; it looks like the {root.name} folder itself, so give "
            f"its parent {root.parent}"
        )
    folders = [entry for entry in root.iterdir() if _is_visible_folder(entry)]
    bare = any(map(holds_images, folders)) and not has_split(root)
    if bare and split == "train":
        return root
    if holds_images(root) and not folders:
        raise DataError(
            f"{root}: contains images but no class folders; sort them into one folder per class: "
            f"{root}/CLASS/IMAGE"
        )
    found = few(sorted(entry.name for entry in folders), "folder")
    otherwise = ", or set data.val_fraction: 0.2 to hold out training images" if bare else ""
    raise DataError(
        f"{root}: contains no {wanted}; found {found}; put class folders into "
        f"{root / names[0]}{otherwise}"
    )


def holds_images(folder: Path) -> bool:
    """Whether a folder directly contains image files.

    Raises:
        OSError: it is not readable.
    """
    with os.scandir(os.fsencode(folder)) as entries:
        return any(is_image(e.name) and not e.name.startswith(b".") for e in entries)


def has_split(root: Path) -> bool:
    """Whether a data root has a folder of any split."""
    return any((root / name).is_dir() for name in chain.from_iterable(SPLIT_FOLDERS.values()))


def list_images(folder: Path) -> Listing:
    """List the image files of a split, in the same order on any machine.

    Class folders are searched to any depth and symbolic links are followed, as torchvision's
    ImageFolder does; files and folders whose name starts with a dot are left out.

    Raises:
        DataError: there is no class folder, one holds no image, or one is not readable.
    """
    top = os.fsencode(folder)
    try:
        folders = {"": os.stat(top).st_mtime_ns}
        names, has_images = _class_names(top)
        if not names:
            raise DataError(_no_classes(folder, has_images))
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            found = list(pool.map(lambda name: _list_class(top, name), names))
        for name, listed in zip(names, found, strict=True):
            place = folder / os.fsdecode(name)
            labels = [folder / os.fsdecode(label) for label in some_labels(listed.labels)]
            refuse_several_labels(place, [read_regular(label) for label in labels])
    except OSError as error:
        raise DataError(
            f"{os.fsdecode(error.filename or top)}: cannot be listed "
            f"({reason(error)}); every class folder must be readable"
        ) from error
    classes = tuple(os.fsdecode(name) for name in names)
    empty = [name for name, listed in zip(classes, found, strict=True) if not listed.files]
    if empty:
        raise DataError(
            f"{folder}: {few(empty, 'class folder')} without image files "
            f"({' '.join(IMAGE_SUFFIXES)}); fill or remove such folders"
        )
    for listed in found:
        folders |= listed.folders
    return Listing(
        classes=classes,
        counts=tuple(len(listed.files) for listed in found),
        names=list(chain.from_iterable(listed.files for listed in found)),
        folders=folders,
    )


def some_labels(labels: Sequence[_Name]) -> list[_Name]:
    """A few of a class folder's labels (.cls), from all over it."""
    return sorted(labels)[:: max(1, len(labels) // _FEW_LABELS)]


def refuse_several_labels(place: object, labels: Sequence[bytes]) -> None:
    """Refuse an extracted WebDataset shard, whose labels say another class than its folder.

    An extracted packed set is fine: the labels of a class are the same.
    """
    if len({label.strip() for label in labels}) > 1:
        raise DataError(
            f"{place}: contains labels of several classes (.cls), so it is not a class folder; "
            "give the WebDataset shards without extracting them, or remove the .cls files"
        )


def list_folder(folder: Path) -> list[Path]:
    """List the image files below any folder, as below a class folder: sorted byte by byte.

    Raises:
        DataError: a folder is not readable.
    """
    try:
        found = _list_class(os.fsencode(folder), b"")
    except OSError as error:
        raise DataError(
            f"{os.fsdecode(error.filename or folder)}: cannot be listed ({reason(error)})"
        ) from error
    return [folder / os.fsdecode(file) for file in found.files]


def is_image(name: bytes) -> bool:
    """Whether a file name is that of an image."""
    return name.lower().endswith(_SUFFIXES)


def few(names: list[str], noun: str) -> str:
    """`no folders`, `1 folder (a)`, `5 folders (a, b, c, ...)`."""
    if not names:
        return f"no {noun}s"
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({shown})"


def _class_names(top: bytes) -> tuple[list[bytes], bool]:
    """Sorted class folders, and whether image files lie beside them."""
    with os.scandir(top) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(b".")]
    names = sorted(entry.name for entry in visible if entry.is_dir())
    return names, any(is_image(entry.name) for entry in visible)


def _list_class(top: bytes, name: bytes) -> _ClassFiles:
    found = _ClassFiles()
    _walk(top, name, frozenset(), found)
    found.files.sort()
    return found


def _walk(
    top: bytes, relative: bytes, above: frozenset[tuple[int, int]], found: _ClassFiles
) -> None:
    """Collect the files below a folder; `above` are the folders that lead to it."""
    path = os.path.join(top, relative)
    # Before listing: a file added meanwhile then leaves a newer time than the one kept.
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # a link back up: everything behind it is listed already
        return
    found.folders[os.fsdecode(relative)] = status.st_mtime_ns
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            below = os.path.join(relative, entry.name)
            if entry.is_dir():
                _walk(top, below, above | {identity}, found)
            elif is_image(entry.name):
                found.files.append(below)
            elif entry.name.endswith(_LABEL):
                found.labels.append(below)


def _is_visible_folder(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_dir()


def _no_classes(folder: Path, has_images: bool) -> str:
    if has_images:
        return (
            f"{folder}: contains images but no class folders; sort them into one folder per class "
            f"(ixt data prepare {folder.parent} does so with ILSVRC2012's)"
        )
    return f"{folder}: contains no class folders; expected {folder}/CLASS/IMAGE"
