"""Find the image files of a split in ImageNet layout: ROOT/train/CLASS/..., ROOT/val/CLASS/...

On a disk or in a bucket. Names only; `headers` opens the files.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ixt.errors import DataError
from ixt.files import as_url, local_path, read_regular, reason
from ixt.storage.paths import RemotePath
from ixt.storage.urls import REMOTE_FORMS, is_remote, object_path

Split = Literal["train", "val"]
Place = Path | RemotePath
P = TypeVar("P", Path, RemotePath)

SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "validation")}
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")

_SUFFIXES = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
_LABEL = b".cls"
_FEW_LABELS = 64
_NUM_THREADS = 16  # listing a network folder waits for the server, not for the CPU


@dataclass(frozen=True)
class Listing:
    """The images of a split, ordered by class and then by path, byte by byte.

    A shard that `ixt data pack` wrote keeps its own order, which is that of the packed folder.
    """

    classes: tuple[str, ...]
    """Names of the class folders."""
    counts: tuple[int, ...]
    """Images of each class."""
    names: list[bytes]
    """Paths relative to the split's folder, or names within the shard; INNER.tar!NAME where the
    shard holds tars."""
    folders: dict[str, int] = field(default_factory=dict)
    """Modification time (ns), before it was listed, of each folder relative to the split's."""
    shards: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """(n,) place of the image's shard in the sequence of shards; (0,) where images are files."""
    offsets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) first byte of the image in its shard."""
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) length in bytes."""
    heads: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 3), np.int32))
    """(n, 3) format, height and width of an image in a shard, as of `Headers`."""


@dataclass
class ClassFiles:
    """What one class folder holds; grows while it is walked."""

    files: list[bytes] = field(default_factory=list)
    labels: list[bytes] = field(default_factory=list)
    folders: dict[str, int] = field(default_factory=dict)


def place_of(root: str | Path) -> Any:
    """A data root on a disk or in a bucket, as a Path or a RemotePath: types cannot say which.

    Raises:
        DataError: it is a URL of another kind, or names no bucket.
    """
    if is_remote(str(root)):
        object_path(str(root))
        return RemotePath(str(root).rstrip("/"))
    url = as_url(root)
    if url is not None:
        raise DataError(f"{url}: cannot be read; give a folder, or a bucket as {REMOTE_FORMS}")
    return local_path(root)


def look(folder: Place) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files directly in a folder, sorted, but hidden ones.

    Raises:
        OSError: it is not readable.
        StorageError: as `list_folder`.
    """
    folders: list[str] = []
    files: list[str] = []
    if isinstance(folder, RemotePath):
        folders, files = folder.level()
    else:
        with os.scandir(os.fsencode(folder)) as entries:
            for entry in entries:
                (folders if entry.is_dir() else files).append(os.fsdecode(entry.name))
    visible = ([name for name in names if name[0] != "."] for names in (folders, files))
    one, other = (sorted(names, key=os.fsencode) for names in visible)
    return one, other


def find_split(root: P, split: Split) -> P:
    """Folder of a split below the data root.

    Class folders beside no train/ and no val/ are training images, too: then it is the root.

    Raises:
        DataError: root is not a folder, or contains no folder of that split.
    """
    names = SPLIT_FOLDERS[split]
    wanted = " or ".join(f"{name}/" for name in names)
    if isinstance(root, RemotePath) and not root.exists():
        root.walk()  # says so where there is no such bucket
        raise DataError(
            f"{root}: contains nothing; check the URL, or upload a set that has {wanted} below "
            "it (ixt data pack DATA --to URL writes one)"
        )
    if not root.exists():
        raise DataError(f"{root}: no such folder; give the folder that contains train/ and val/")
    if not root.is_dir():
        raise DataError(f"{root}: not a folder; give the folder that contains train/ and val/")
    for name in names:
        if (root / name).is_dir():
            return root / name
    if root.name in chain.from_iterable(SPLIT_FOLDERS.values()):
        raise DataError(
            f"{root}: contains no {wanted}; it looks like the {root.name} folder itself, so give "
            f"its parent {root.parent}"
        )
    folders = [root / name for name in look(root)[0]]
    bare = any(map(holds_images, folders)) and not has_split(root)
    if bare and split == "train":
        return root
    if holds_images(root) and not folders:
        raise DataError(
            f"{root}: contains images but no class folders; sort them into one folder per class: "
            f"{root}/CLASS/IMAGE"
        )
    found = few([folder.name for folder in folders], "folder")
    otherwise = ", or set data.val_fraction: 0.2 to hold out training images" if bare else ""
    raise DataError(
        f"{root}: contains no {wanted}; found {found}; put class folders into "
        f"{root / names[0]}{otherwise}"
    )


def holds_images(folder: Place) -> bool:
    """Whether a folder directly contains image files.

    Raises:
        OSError: it is not readable.
    """
    return any(is_image(os.fsencode(name)) for name in look(folder)[1])


def has_split(root: Place) -> bool:
    """Whether a data root has a folder of any split."""
    return any((root / name).is_dir() for name in chain.from_iterable(SPLIT_FOLDERS.values()))


def class_files(folder: Place) -> dict[str, ClassFiles]:
    """What each class folder of a split holds, in the same order on any machine.

    Class folders are searched to any depth and symbolic links are followed, as torchvision's
    ImageFolder does; files and folders whose name starts with a dot are left out.

    Raises:
        DataError: there is no class folder.
        OSError: one is not readable.
    """
    classes, files = look(folder)
    if not classes:
        raise DataError(_no_classes(folder, any(is_image(os.fsencode(name)) for name in files)))
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = pool.map(lambda name: _list_class(folder, name), classes)
        return dict(zip(classes, found, strict=True))


def list_images(folder: Place) -> Listing:
    """List the image files of a split, as `class_files` does.

    Raises:
        DataError: there is no class folder, one holds no image, or one is not readable.
    """
    try:
        folders = {"": folder.stat().st_mtime_ns} if isinstance(folder, Path) else {}
        found = class_files(folder)
        for name, listed in found.items():
            _refuse_several_labels(folder, name, listed.labels)
    except OSError as error:
        raise DataError(
            f"{os.fsdecode(error.filename or str(folder))}: cannot be listed "
            f"({reason(error)}); every class folder must be readable"
        ) from error
    empty = [name for name, listed in found.items() if not listed.files]
    if empty:
        raise DataError(
            f"{folder}: {few(empty, 'class folder')} without image files "
            f"({' '.join(IMAGE_SUFFIXES)}); fill or remove such folders"
        )
    for listed in found.values():
        folders |= listed.folders
    return Listing(
        classes=tuple(found),
        counts=tuple(len(listed.files) for listed in found.values()),
        names=list(chain.from_iterable(listed.files for listed in found.values())),
        folders=folders,
    )


def _refuse_several_labels(folder: Place, name: str, labels: list[bytes]) -> None:
    """Refuse an extracted WebDataset shard, whose labels say another class than its folder.

    A few labels from all over it do. An extracted packed set is fine: its labels are the same.
    """
    some = sorted(labels)[:: max(1, len(labels) // _FEW_LABELS)]
    places = [folder / os.fsdecode(label) for label in some]
    texts = [read_regular(one) if isinstance(one, Path) else one.read_bytes() for one in places]
    if len({text.strip() for text in texts}) > 1:
        raise DataError(
            f"{folder / name}: contains labels of several classes (.cls), so it is not a class "
            "folder; give the WebDataset shards without extracting them, or remove the .cls files"
        )


def list_folder(folder: Path) -> list[Path]:
    """List the image files below any folder, as below a class folder: sorted byte by byte.

    Raises:
        DataError: a folder is not readable.
    """
    try:
        found = _list_class(folder, "")
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


def is_hidden(name: bytes) -> bool:
    """Whether a member, or a folder that it lies in, is hidden: its name begins with a dot."""
    return b"/." in b"/" + name


def _list_class(top: Place, name: str) -> ClassFiles:
    found = ClassFiles()
    if isinstance(top, Path):
        _walk(os.fsencode(top), os.fsencode(name), frozenset(), found)
    else:
        for below in map(os.fsencode, (top / name).walk()):
            if not is_hidden(below):
                _sort_in(os.fsencode(name) + b"/" + below, found)
    found.files.sort()
    return found


def _sort_in(path: bytes, found: ClassFiles) -> None:
    if is_image(path):
        found.files.append(path)
    elif path.endswith(_LABEL):
        found.labels.append(path)


def _walk(
    top: bytes, relative: bytes, above: frozenset[tuple[int, int]], found: ClassFiles
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
            else:
                _sort_in(below, found)


def _no_classes(folder: Place, has_images: bool) -> str:
    if has_images:
        return (
            f"{folder}: contains images but no class folders; sort them into one folder per class "
            f"(ixt data prepare {folder.parent} does so with ILSVRC2012's)"
        )
    return f"{folder}: contains no class folders; expected {folder}/CLASS/IMAGE"
