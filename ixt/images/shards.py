"""How a split is stored, on a disk or in a bucket, and whether a tar has changed since then."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Generic, NamedTuple

from ixt.errors import DataError
from ixt.images.folders import (
    SPLIT_FOLDERS,
    P,
    Place,
    Split,
    few,
    find_split,
    has_split,
    look,
)
from ixt.images.lists import is_list, lists_of
from ixt.images.shard_names import SHARD_SUFFIXES, is_pattern, tars_by_split
from ixt.images.webdataset import begins_as_shard
from ixt.storage.paths import RemotePath

INDEX_FOLDER = "index"
"""Beside the tars that `ixt data pack` wrote: their index."""
META = "meta.json"
"""The file of an index that is written last."""
PACK_SETTINGS = "pack.json"
"""In the root of a set that `ixt data pack` wrote: with which options."""

_OR_HOLD_OUT = ", or set data.val_fraction: 0.2 to hold out training images"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BLOCK = 512
_FIRST = 4  # shards looked into by split: some may be damaged, which is said later
_PROBES = 16
_NUM_THREADS = 16


@dataclass(frozen=True)
class Layout(Generic[P]):
    """Where the images of a split are."""

    split: Split
    folder: P
    """The folder of the class folders, or of the tars."""
    tars: tuple[str, ...] = ()
    """Names of the tars or parquet files in it, sorted byte by byte; empty where images are files.
    """
    list_name: str = ""
    """The list in it that names the images; empty where there is none."""
    ignored: str = ""
    """A list or a parquet file beside other images of the split, which is not read."""

    @property
    def list_path(self) -> P | None:
        """The list."""
        return self.folder / self.list_name if self.list_name else None

    @property
    def tar_paths(self) -> list[P]:
        """The tars."""
        return [self.folder / name for name in self.tars]

    @property
    def is_packed(self) -> bool:
        """Whether `ixt data pack` wrote the tars: by its index, or by its settings."""
        if not self.tars or _has_index(self.folder):
            return bool(self.tars)
        root = self.folder.parent
        known = isinstance(root, Path) or root.is_listed
        return known and (root / PACK_SETTINGS).is_file()


class Stamp(NamedTuple):
    """What is stored about a tar in order to detect a change."""

    name: str
    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time; 0 where it is not known, as in a set that may be copied about."""
    probe: str
    """Digest of some blocks all over the tar; of an object in a bucket its version."""


def find_layout(root: P, split: Split) -> Layout[P]:
    """Find the images of a split: class folders, tars in the split's folder, or ILSVRC2012's tar.

    The tars may also lie in the root and have the split in their names, or be given by a pattern.
    A list is read where it is the root, or lies in a root without such images of its split.

    Raises:
        DataError: there is nothing of that split, or it is in a form that cannot be read.
        OSError: a folder cannot be read.
    """
    named = _named_shards(root)
    lists = [] if is_pattern(root) else lists_of(root, split)
    if lists and (is_list(root) or not _has_unlisted(root, split, named)):
        if len(lists) > 1:
            names = few([path.name for path in lists], "list")
            raise DataError(
                f"{lists[0].parent}: holds {names} of {split}; keep one, or give the list itself"
            )
        return Layout(split, lists[0].parent, list_name=lists[0].name)
    if is_list(root):
        raise DataError(
            f"{root}: names no images of {split}; put a list with {split} in its name beside it, "
            "give it a column split" + _OR_HOLD_OUT * (split == "val")
        )
    found = _find_unlisted(root, split, named)
    others = [path.name for path in lists + named.get(split, [])]
    left = [name for name in others if not _is_tar(name) and name not in found.tars]
    return replace(found, ignored=left[0]) if left else found


def _has_unlisted(root: P, split: Split, named: dict[str | None, list[P]]) -> bool:
    """Whether a split has tars or class folders; those that lie beside no split may be anything."""
    if named.get(split) or (root / f"ILSVRC2012_img_{split}.tar").is_file():
        return True
    return any(map(_holds_classes, (root / name for name in SPLIT_FOLDERS[split])))


def _holds_classes(folder: Place) -> bool:
    folders, files = look(folder) if folder.is_dir() else ([], [])
    return bool(folders) or any(name.endswith(SHARD_SUFFIXES) for name in files)


def _find_unlisted(root: P, split: Split, named: dict[str | None, list[P]]) -> Layout[P]:
    if is_pattern(root):
        return _by_name(root, split, named)
    outer = root / f"ILSVRC2012_img_{split}.tar"
    try:
        folder = find_split(root, split)
    except DataError:
        if outer.is_file():
            _refuse_beside(root, split, outer, named)
            return Layout(split, root, (outer.name,))
        files = look(root)[1] if root.is_dir() else []
        ilsvrc = any(_is_tar(name) and name.startswith("ILSVRC2012_img_") for name in files)
        # Other names mean something only where nothing else says a split.
        if named.get(split) or (named and not ilsvrc and not has_split(root)):
            return _by_name(root, split, named)
        if ilsvrc:
            raise DataError(
                f"{root}: contains neither {split}/ nor {outer.name}; put it beside the other tar"
            ) from None
        raise
    _refuse_beside(root, split, folder, named)
    return Layout(split, folder, _tars(folder, split))


def own_val(root: P) -> str | None:
    """Name of a data root's validation images; None where it has none."""
    named = _named_shards(root)
    lists = [] if is_pattern(root) else lists_of(root, "val")
    if is_list(root) or (lists and not _has_unlisted(root, "val", named)):
        return lists[0].name if lists else None
    names = (*SPLIT_FOLDERS["val"], "ILSVRC2012_img_val.tar")
    found = next((name for name in names if (root / name).exists()), None)
    return found or next((tar.name for tar in named.get("val", ())), None)


def _named_shards(root: P) -> dict[str | None, list[P]]:
    """WebDataset or parquet shards in a data root, or those of a pattern, by split.

    Other tars in a root, e.g. those that its class folders were extracted from, mean nothing.
    """
    named = tars_by_split(root)
    first = chain.from_iterable(paths[:_FIRST] for paths in named.values())
    return named if is_pattern(root) or any(map(_is_named_shard, first)) else {}


def _is_named_shard(path: Place) -> bool:
    return not _is_tar(path.name) or begins_as_shard(path)


def _is_tar(name: str) -> bool:
    return name.endswith(".tar")


def _by_name(root: P, split: Split, named: dict[str | None, list[P]]) -> Layout[P]:
    """The tars of a split by their names."""
    paths = _tars_of_split(root, split, named)
    folders = {path.parent for path in paths}
    if len(folders) > 1:
        raise DataError(f"{root}: the tars of {split} lie in several folders; put them into one")
    folder = folders.pop()
    if not is_pattern(root):
        _refuse_compressed(folder, look(folder)[1])
    names = tuple(path.name for path in paths)
    _refuse_mixed(folder, names)
    return Layout(split, folder, names)


def _tars_of_split(root: P, split: Split, named: dict[str | None, list[P]]) -> list[P]:
    """Those of some tars that are of a split; all are to train on if no name says a split."""
    unclear = named.get(None, [])
    if unclear and len(named) > 1:
        raise DataError(
            f"{root}: the names of {few([path.name for path in unclear], 'tar')} contain neither "
            "train nor val, but those of others do; rename them, or put each split into a folder"
        )
    paths = unclear if split == "train" and unclear else named.get(split, [])
    if not paths:
        raise DataError(
            f"{root}: no shard has {' or '.join(SPLIT_FOLDERS[split])} in its name; add such shards"
            + _OR_HOLD_OUT * (split == "val")
        )
    return paths


def _refuse_beside(root: P, split: Split, other: P, named: dict[str | None, list[P]]) -> None:
    """Refuse two sources of a split's images: nobody can know which one is meant."""
    tars = [path.name for path in named.get(split, ()) if path.suffix == ".tar"]
    if tars and other != root and other.exists():
        raise DataError(
            f"{root}: contains {other.name} and also {few(tars, 'tar')} of {split}; move away "
            "what should not be read"
        )


def _tars(folder: Place, split: Split) -> tuple[str, ...]:
    folders, files = look(folder)
    tars = [name for name in files if name.endswith(SHARD_SUFFIXES)]
    if tars and _has_index(folder):
        folders.remove(INDEX_FOLDER)
    if folders:
        _refuse_half_extracted(folder, folders, list(filter(_is_tar, tars)))
        return ()
    _refuse_compressed(folder, files)
    names = tuple(tars)
    _refuse_mixed(folder, names)
    return names


def _has_index(folder: Place) -> bool:
    """Whether the index of a packed set lies in a folder; one in a bucket may be incomplete."""
    index = folder / INDEX_FOLDER
    return index.is_dir() if isinstance(index, RemotePath) else (index / META).is_file()


def _refuse_mixed(folder: Place, names: tuple[str, ...]) -> None:
    """Tars and parquet files of one split may hold the same images."""
    if len({name.rpartition(".")[2] for name in names}) > 1:
        raise DataError(
            f"{folder}: holds tars and parquet files ({names[0]}, {names[-1]}) of one split; move "
            "away what is not to be read"
        )


def _refuse_compressed(folder: Place, names: list[str]) -> None:
    """Refuse compressed tars among some files: their images would be left out silently."""
    compressed = [
        name
        for name in sorted(names)
        if name.endswith(_COMPRESSED) and not name.startswith((".", "ILSVRC2012_devkit"))
    ]
    if compressed:
        raise DataError(
            f"{folder}: {few(compressed, 'compressed tar')}, whose images cannot be read in "
            "random order; decompress each once (gunzip FILE) so that its name ends in .tar"
        )


def _refuse_half_extracted(folder: Place, folders: list[str], tars: list[str]) -> None:
    """Refuse class folders beside tars of other classes: a run would train on some classes only."""
    extracted = set(folders)
    left = [tar for tar in tars if tar.removesuffix(".tar") not in extracted]
    if left:
        raise DataError(
            f"{folder}: contains class folders and also {few(left, 'tar')} without a folder; "
            "extract these too, or move the folders away to read the tars"
        )


def stamp(path: Place) -> Stamp:
    """Describe a tar as it is now.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(path, RemotePath):
        return Stamp(path.name, path.file.size, 0, path.file.version)
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        return Stamp(path.name, status.st_size, status.st_mtime_ns, _probe(file.fileno()))


def unchanged(folder: Path, stamps: tuple[Stamp, ...], *, by_length: bool = False) -> bool:
    """Whether tars are unchanged: of the same length, and of the same time or content.

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
