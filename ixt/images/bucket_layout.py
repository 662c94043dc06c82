"""How the images of a split lie in a bucket: as a packed set, in other tars, or in class folders.

What `shards` finds out of a disk, by listings of one level.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain

from ixt.errors import DataError
from ixt.images.folders import SPLIT_FOLDERS, Split, few
from ixt.images.shard_names import expand, split_of
from ixt.images.shards import INDEX_FOLDER, PACK_SETTINGS, refuse_compressed, tars_of_split
from ixt.images.tar_bytes import RemoteTar
from ixt.images.webdataset import begins_as_shard
from ixt.storage.objects import RemoteFile, list_folder, list_objects
from ixt.storage.urls import object_path

_FIRST = 4  # tars looked into: all of them are read later
_OUTER = "ILSVRC2012_img_"


@dataclass(frozen=True)
class RemoteLayout:
    """Where the images of a split are."""

    root: str
    """The data root; of a pattern, the folder of the tars."""
    folder: str
    """URL of the folder of the tars or class folders."""
    tars: tuple[RemoteTar, ...] = ()
    """Sorted by name."""
    classes: tuple[str, ...] = ()
    """Names of the class folders, sorted; empty where images lie in tars."""
    is_packed: bool = False
    """Whether `ixt data pack` wrote the tars."""
    begin_as_shards: bool = False
    """Whether one of the tars was seen to be a WebDataset shard."""


@dataclass(frozen=True)
class _Level:
    """What lies directly below a URL; names that begin with a dot are hidden."""

    url: str
    folders: list[str]
    files: dict[str, RemoteFile] = field(default_factory=dict)

    def tars(self) -> list[RemoteTar]:
        """The tars in it, sorted by name."""
        names = sorted((name for name in self.files if name.endswith(".tar")), key=str.encode)
        return [RemoteTar(self.url, name, self.files[name]) for name in names]

    def holds(self) -> list[str]:
        """Names to show of it."""
        return [*(f"{name}/" for name in self.folders), *sorted(self.files)]


def find_remote_layout(root: str, split: Split) -> RemoteLayout:
    """Find the images of a split below a URL, or those that a brace pattern names.

    Raises:
        DataError: there is nothing of that split, or it is in a form that cannot be read.
        StorageError: the bucket cannot be read.
    """
    object_path(root)
    root = root.rstrip("/")
    if "{" in root:
        return _one_folder(root, tars_of_split(root, split, _group(_pattern_tars(root))))
    top = _look(root)
    named = _shards(top)
    found = _split_folder(top, split)
    if found is not None:
        if named.get(split):
            raise DataError(
                f"{root}: contains {found}/ and also "
                f"{few([tar.name for tar in named[split]], 'tar')} of {split}; move away what is "
                "not to be read"
            )
        return _in_folder(root, _look(f"{root}/{found}"), PACK_SETTINGS in top.files)
    outer = [tar for tar in top.tars() if tar.name == f"{_OUTER}{split}.tar"]
    if outer:
        return RemoteLayout(root, root, tuple(outer))
    has_split = any(_split_folder(top, one) for one in SPLIT_FOLDERS)
    if named.get(split) or (named.keys() == {None} and not has_split):
        refuse_compressed(root, list(top.files))
        return replace(_one_folder(root, tars_of_split(root, split, named)), begin_as_shards=True)
    if split == "train" and top.folders and not has_split:
        return _in_folder(root, top, False)
    raise DataError(_nothing(top, split))


def own_remote_val(root: str) -> str | None:
    """Name of a data root's validation images; None where it has none."""
    if "{" in root:
        return next((tar.name for tar in _group(_pattern_tars(root)).get("val", ())), None)
    top = _look(root.rstrip("/"))
    if f"{_OUTER}val.tar" in top.files:
        return f"{_OUTER}val.tar"
    shard = next((tar.name for tar in _shards(top).get("val", ())), None)
    return _split_folder(top, "val") or shard


def _look(url: str) -> _Level:
    folders, files = list_folder(url)
    return _Level(
        url,
        [name for name in folders if not name.startswith(".")],
        {name: file for name, file in files.items() if not name.startswith(".")},
    )


def _split_folder(top: _Level, split: Split) -> str | None:
    return next((name for name in SPLIT_FOLDERS[split] if name in top.folders), None)


def _group(tars: Iterable[RemoteTar]) -> dict[str | None, list[RemoteTar]]:
    """Tars by the split that their names, or those of their folders, say."""
    found: dict[str | None, list[RemoteTar]] = {}
    for tar in tars:
        split = split_of(tar.name) or split_of(tar.folder.rpartition("/")[2])
        found.setdefault(split, []).append(tar)
    return found


def _shards(top: _Level) -> dict[str | None, list[RemoteTar]]:
    """WebDataset shards in a root by split; other tars there mean nothing."""
    named: dict[str | None, list[RemoteTar]] = {}
    for tar in top.tars():
        if not tar.name.startswith(_OUTER):
            named.setdefault(split_of(tar.name), []).append(tar)
    first = chain.from_iterable(tars[:_FIRST] for tars in named.values())
    return named if any(map(begins_as_shard, first)) else {}


def _pattern_tars(pattern: str) -> list[RemoteTar]:
    """The tars of a brace pattern, in order; its folders are listed once."""
    levels: dict[str, _Level] = {}
    tars = []
    for url in dict.fromkeys(expand(pattern)):
        folder, _, name = url.rpartition("/")
        if folder not in levels:
            levels[folder] = _look(folder)
        if name not in levels[folder].files:
            raise DataError(
                f"{url}: no such object, but {pattern} names it; a pattern names only objects "
                "that are there, with train or val in their names"
            )
        tars.append(RemoteTar(folder, name, levels[folder].files[name]))
    return tars


def _one_folder(root: str, tars: list[RemoteTar]) -> RemoteLayout:
    folders = {tar.folder for tar in tars}
    if len(folders) > 1:
        raise DataError(f"{root}: the tars lie in several folders; put them into one")
    (folder,) = folders
    top = root.partition("{")[0].rpartition("/")[0] if "{" in root else root
    return RemoteLayout(top, folder, tuple(tars))


def _in_folder(root: str, level: _Level, is_packed: bool) -> RemoteLayout:
    """The layout of a split's own folder."""
    tars = level.tars()
    has_index = INDEX_FOLDER in level.folders and bool(tars)
    if has_index or (is_packed and tars):
        return RemoteLayout(root, level.url, tuple(tars), is_packed=True)
    if tars and level.folders:
        raise DataError(
            f"{level.url}: contains class folders and also "
            f"{few([tar.name for tar in tars], 'tar')}; move away what is not to be read"
        )
    if not tars and not level.folders:
        raise DataError(f"{level.url}: contains neither class folders nor tars; upload the images")
    refuse_compressed(level.url, list(level.files))
    classes = tuple(sorted(level.folders, key=str.encode))
    return RemoteLayout(root, level.url, tuple(tars), () if tars else classes)


def _nothing(top: _Level, split: Split) -> str:
    wanted = " or ".join(f"{name}/" for name in SPLIT_FOLDERS[split])
    if not top.folders and not top.files:
        list_objects(top.url)  # says so where there is no such bucket
        return (
            f"{top.url}: contains nothing; check the URL, or upload a set that has {wanted} below "
            "it (ixt data pack DATA --to URL writes one)"
        )
    held = "" if split == "train" else ", or set data.val_fraction: 0.2 to hold images out"
    return (
        f"{top.url}: contains no {wanted}; found {few(top.holds(), 'name')}; put class folders, "
        f"tars or a packed set below {top.url}/{SPLIT_FOLDERS[split][0]}{held}"
    )
