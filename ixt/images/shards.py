"""The tars of a split: which files they are, and whether one has changed since it was indexed."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ixt.errors import DataError
from ixt.images.folders import Split, few, find_split

INDEX_FOLDER = "index"
"""Beside the tars that `ixt data pack` wrote: their index."""
META = "meta.json"
"""The file of an index that is written last."""
PACK_SETTINGS = "pack.json"
"""In the root of a set that `ixt data pack` wrote: with which options."""

_COMPRESSED = (b".tar.gz", b".tgz", b".tar.bz2", b".tar.xz", b".tar.zst")
_BLOCK = 512
_PROBES = 16
_NUM_THREADS = 16


@dataclass(frozen=True)
class Layout:
    """Where the images of a split are."""

    split: Split
    folder: Path
    """The folder of the class folders, or of the tars."""
    tars: tuple[str, ...] = ()
    """Names of the tars in it, sorted byte by byte; empty where images are files."""

    @property
    def tar_paths(self) -> list[Path]:
        """The tars."""
        return [self.folder / name for name in self.tars]

    @property
    def is_packed(self) -> bool:
        """Whether `ixt data pack` wrote the tars: by its index, or by its settings."""
        marks = (self.folder / INDEX_FOLDER / META, self.folder.parent / PACK_SETTINGS)
        return any(mark.is_file() for mark in marks)


class Stamp(NamedTuple):
    """What is remembered of a tar in order to notice that it has changed."""

    name: str
    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time; 0 where it is not known, as in a set that may be copied about."""
    probe: str
    """Digest of some blocks all over the tar."""


def find_layout(root: Path, split: Split) -> Layout:
    """Find the images of a split: class folders, tars in the split's folder, or ILSVRC2012's tar.

    Raises:
        DataError: there is nothing of that split, or it is in a form that cannot be read.
        OSError: a folder cannot be read.
    """
    outer = root / f"ILSVRC2012_img_{split}.tar"
    try:
        folder = find_split(root, split)
    except DataError:
        if not outer.is_file():
            if next(root.glob("ILSVRC2012_img_*.tar"), None) is not None:
                raise DataError(
                    f"{root}: holds neither {split}/ nor {outer.name}; put it beside the other tar"
                ) from None
            raise
        return Layout(split, root, (outer.name,))
    return Layout(split, folder, _tars(folder, split))


def _tars(folder: Path, split: Split) -> tuple[str, ...]:
    folders, tars, compressed = [], [], []
    with os.scandir(os.fsencode(folder)) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.endswith(b".tar"):
                tars.append(entry.name)
            elif entry.name.endswith(_COMPRESSED):
                compressed.append(os.fsdecode(entry.name))
    if tars and (folder / INDEX_FOLDER / META).is_file():
        folders.remove(os.fsencode(INDEX_FOLDER))
    if folders:
        _refuse_half_extracted(folder, folders, tars)
        return ()
    if compressed:
        raise DataError(
            f"{folder}: {few(sorted(compressed), 'compressed tar')}, in which no image can be "
            "reached by its place; unpack each once (gunzip FILE) so that its name ends in .tar"
        )
    return tuple(os.fsdecode(name) for name in sorted(tars))


def _refuse_half_extracted(folder: Path, folders: list[bytes], tars: list[bytes]) -> None:
    """Class folders beside the tars of other classes would train on some of the classes."""
    extracted = set(folders)
    left = [os.fsdecode(tar) for tar in sorted(tars) if tar.removesuffix(b".tar") not in extracted]
    if left:
        raise DataError(
            f"{folder}: holds class folders and also {few(left, 'tar')} without a folder; extract "
            "these too, or move the folders away to read the tars"
        )


def stamp(path: Path) -> Stamp:
    """Describe a tar as it is now.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        return Stamp(path.name, status.st_size, status.st_mtime_ns, _probe(file.fileno()))


def unchanged(folder: Path, stamps: tuple[Stamp, ...], *, by_length: bool = False) -> bool:
    """Whether tars are what they were: equally long, and of the same time or the same content.

    A set that was copied has other times, so content counts, too. It is compared in blocks all
    over the tar: enough to tell a set packed again, which moves every image.

    Args:
        folder: of the tars.
        stamps: what they were.
        by_length: compare only their lengths: each image is verified when it is read, and then
            its name can be given.
    """

    def same(old: Stamp) -> bool:
        path = folder / old.name
        status = os.stat(path)
        if status.st_size != old.size:
            return False
        return by_length or status.st_mtime_ns == old.mtime_ns or stamp(path).probe == old.probe

    try:
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            return all(pool.map(same, stamps))
    except OSError:
        return False


def _probe(descriptor: int) -> str:
    num_blocks = os.fstat(descriptor).st_size // _BLOCK
    digest = hashlib.sha256()
    for number in range(_PROBES):
        place = number * max(0, num_blocks - 1) // (_PROBES - 1)
        digest.update(os.pread(descriptor, _BLOCK, place * _BLOCK))
    return digest.hexdigest()[:16]
