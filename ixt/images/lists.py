"""Find and read lists of images: a row for each image, with its path, its label, maybe its split.

Paths are relative to the list's folder, or absolute; on a disk they may lead out of it. Classes are
named and ordered as those of WebDataset shards: a number keeps its meaning.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ixt.errors import DataError
from ixt.files import reason
from ixt.images.folders import SPLIT_FOLDERS, Listing, P, Place, Split, few, look
from ixt.images.list_rows import SEPARATOR, is_of, labels_of, path_of, read_rows
from ixt.images.shard_classes import Labelled, name_classes
from ixt.images.shard_labels import Label
from ixt.images.shard_names import split_of, without_split

LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl")
_NUM_THREADS = 16
LIST_MARK = "./"
"""Stands before a list's name among the folders whose times a cached table keeps."""


class _Row(NamedTuple):
    """An image of a list."""

    where: str
    """What errors call its row: `list.csv:2`."""
    path: str
    """Path of its file, relative to the list's folder where it lies below that."""
    labels: list[Label]
    """Mostly one."""


def is_list(path: Place) -> bool:
    """Whether a data root is a list of images by its name."""
    return path.suffix.lower() in LIST_SUFFIXES and not path.is_dir()


def lists_of(root: P, split: Split) -> list[P]:
    """The lists that may name a split's images; more than one only if it is not clear which.

    A list whose name says no split has a column for it, or holds training images only. Beside
    train.csv, val.csv is the other list. In a folder only train.csv, val.csv or validation.csv are
    lists, with any of the suffixes.

    Args:
        root: a folder, or a list.
        split: train or val.

    Raises:
        DataError: the list is not there.
    """
    if is_list(root):
        if not root.is_file():
            raise DataError(f"{root}: no such file; give a list of images, or a folder")
        said = _split_said(root)
        if said in (None, split):
            return [root] if said or split == "train" or _has_rows(root, split) else []
        return [path for path in _lists_in(root.parent) if _is_counterpart(path, root, split)]
    return [path for path in _lists_in(root) if path.stem in SPLIT_FOLDERS[split]]


def _lists_in(folder: P) -> list[P]:
    names = look(folder)[1] if folder.is_dir() else ()
    return [folder / name for name in names if is_list(folder / name)]


def _split_said(path: Place) -> str | None:
    """The split that a list's name says; a test list is one to evaluate on."""
    said = split_of(path.stem)
    return "val" if said == "test" else said


def _is_counterpart(path: Place, root: Place, split: Split) -> bool:
    alike = path.suffix == root.suffix and without_split(path.stem) == without_split(root.stem)
    return alike and split_of(path.stem) == split


def _has_rows(path: Place, split: Split) -> bool:
    for where, fields in read_rows(path):
        if "split" not in fields:
            return False
        if is_of(path, where, fields, split):
            return True
    return False


def read_list(path: Place, split: Split) -> tuple[Listing, str]:
    """Read the images that a list gives of a split.

    Returns:
        The images, ordered by class and then by path, so in the order of the class folders that
        they may lie in; and by what the classes are named, in words.

    Raises:
        DataError: the list cannot be read, lacks a column, gives an image twice or no image at
            all, or labels that cannot be right.
    """
    try:
        mtime_ns = path.stat().st_mtime_ns if isinstance(path, Path) else 0
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error
    rows, paths = [], []
    for where, fields in read_rows(path):
        paths.append(path_of(path.parent, where, fields))
        if is_of(path, where, fields, split):
            rows.append(_Row(where, paths[-1], labels_of(where, fields)))
    if not rows:
        raise DataError(f"{path}: names no images of {split}; fill it, or give another list")
    _refuse_twice(path, paths)
    described = [_describe(row, label) for row in rows for label in row.labels]
    naming = name_classes(described, [path.name], split)
    names = map(os.fsencode, naming.names)
    order = sorted(
        (SEPARATOR.encode().join(sorted(next(names) for _ in row.labels)), os.fsencode(row.path))
        for row in rows
    )
    counts = Counter(name for name, _ in order)  # in the order of the classes
    folders = {LIST_MARK + path.name: mtime_ns}
    if isinstance(path, Path):
        for folder in {os.path.dirname(row.path) for row in rows}:
            with suppress(OSError):  # its images are missing, which is said once all are known
                folders[folder] = (path.parent / folder).stat().st_mtime_ns
    else:
        refuse_missing(path, [row.path for row in rows])
    listing = Listing(
        classes=tuple(os.fsdecode(name) for name in counts),
        counts=tuple(counts.values()),
        names=[name for _, name in order],
        folders=folders,
    )
    return listing, naming.origin


def refuse_missing(path: Place, names: Sequence[str]) -> None:
    """Refuse a list of files of which some are not there.

    Args:
        path: the list.
        names: as it gives them.

    Raises:
        DataError: with their number and the first of them.
        StorageError: as `look`.
    """
    if not isinstance(path, Path):  # each folder is listed once, side by side
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            list(pool.map(look, {(path.parent / name).parent for name in names}))
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise DataError(
            f"{path}: names {few(missing, 'missing file')}; paths are absolute, or relative to "
            f"{path.parent}; add the files, or remove their rows"
        )


def portable_part(path: str, class_name: str) -> str:
    """The part of a listed path behind its class's folder, or behind its first folder."""
    behind = f"/{path}".rpartition(f"/{class_name}/")
    if behind[1]:
        return behind[2]
    # Where a set lies on a machine says nothing of its images.
    return os.path.basename(path) if path.startswith("/") else path.partition("/")[2] or path


def _describe(row: _Row, label: Label) -> Labelled:
    folder, _, file = row.path.rpartition("/")
    return Labelled(row.where, folder.rpartition("/")[2], file, label)


def _refuse_twice(path: Place, paths: list[str]) -> None:
    """Refuse an image with two rows, of both splits, too: it would be evaluated on."""
    times = Counter(os.path.normpath(os.path.join(str(path.parent), name)) for name in paths)
    twice = [name for name, count in times.items() if count > 1]
    if twice:
        raise DataError(
            f"{path}: gives {few(twice, 'path')} more than once; keep one row for each image"
        )
