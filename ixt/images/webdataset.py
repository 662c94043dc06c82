"""Read WebDataset shards: tars in which each image has its label beside it, under the same key.

A key is a member's path up to the first dot of its file's name: a.jpg and a.cls have the key a.

The rows and the digest are those of the class folders that the images come from if their names are
in the shards, as the keys' last part or as `filename` in .json, and so are those of the classes.
Else the order within a class follows the keys, and names in the digest differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ixt.errors import DataError
from ixt.images.folders import IMAGE_SUFFIXES, Listing, Place, Split, is_hidden, is_image
from ixt.images.headers import Head
from ixt.images.progress_lines import Report
from ixt.images.shard_classes import RENAMED, Labelled, list_samples
from ixt.images.shard_labels import Label, label_beside_image, parse_class, parse_label, sample_key
from ixt.images.shard_rows import ShardImage
from ixt.images.tar_walk import Member
from ixt.images.tars import list_members, open_tar
from ixt.storage.paths import RemotePath

_CLS, _JSON = b".cls", b".json"
_NUM_THREADS = 16
_FIRST = 4  # tars of a bucket looked into: all of them are read later
_PEEK = 16  # members; an image and its label lie side by side
_MAX_LABEL = 2**20
_SHORT = 64  # bytes of a .cls that may be kept to compare others with


def are_shards(paths: Sequence[Place]) -> bool:
    """Whether any of some tars begins with an image and a label, or whatever else, beside it.

    Raises:
        DataError: as `list_members`.
    """
    if any(map(_is_shard, paths[:1])):
        return True
    others = paths[1:_FIRST] if isinstance(paths[0], RemotePath) else paths[1:]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return any(pool.map(_is_shard, others))


def begins_as_shard(path: Place) -> bool:
    """Whether a tar begins with an image and a label beside it; damaged ones do not."""
    try:
        return _is_shard(path)
    except DataError:
        return False


def _is_shard(path: Place) -> bool:
    members = list_members(path, limit=_PEEK)
    names = (member.name for member in members if not is_hidden(member.name))
    return label_beside_image(names) is not None


def list_shards(
    paths: Sequence[Place], split: Split, report: Report | None = None
) -> tuple[Listing, str]:
    """List the images of all shards of a split.

    Args:
        paths: the tars.
        split: of which they are.
        report: called with (tars read, tars in all).

    Returns:
        The images, ordered by class and then by name, so in the order of the class folders that
        they may come from; and by what the classes are named, in words.

    Raises:
        DataError: as `list_members`; or an image has no label, or one that cannot be right.
    """
    return list_samples(_read_shard, paths, split, report)


class _Content(NamedTuple):
    """What a shard contains."""

    members: list[Member]
    heads: dict[int, Head]
    """Format, height and width of each image, by its first byte."""
    labels: dict[int, bytes]
    """Content of labels, by their first byte."""


def _read_shard(path: Place) -> Iterator[ShardImage[Labelled]]:
    content = _read_content(path)
    images, labels = _sort_members(path, content.members)
    lone = labels.keys() - images.keys()
    if lone:
        member = next(iter(labels[min(lone)].values()))
        raise DataError(
            f"{path}!{os.fsdecode(member.name)}: has no image of the same key "
            f"({' '.join(IMAGE_SUFFIXES)}); add the image, or remove the label"
        )
    for key, image in images.items():
        label = _label(path, content, image, labels.get(key, {}))
        head = content.heads[image.offset]
        yield ShardImage(
            _labelled(path, image, label), _name(image.name, label), image.offset, image.size, head
        )


def _read_content(path: Place) -> _Content:
    content = _Content([], {}, {})
    with open_tar(path) as (tar, members):
        for member in members:
            if is_hidden(member.name):
                continue
            content.members.append(member)
            if is_image(member.name):
                content.heads[member.offset] = tar.head(member.offset, member.size)
            elif member.size <= _MAX_LABEL and member.name.lower().endswith((_CLS, _JSON)):
                content.labels[member.offset] = tar.at(member.offset, member.size)
    return content


def _sort_members(
    path: Place, members: Sequence[Member]
) -> tuple[dict[bytes, Member], dict[bytes, dict[bytes, Member]]]:
    """The image of each key, and its labels by suffix."""
    images: dict[bytes, Member] = {}
    labels: dict[bytes, dict[bytes, Member]] = {}
    for member in members:
        key = sample_key(member.name)
        suffix = member.name[len(key) :].lower()
        if is_image(member.name):
            known = images.setdefault(key, member)
        elif suffix in (_CLS, _JSON):
            known = labels.setdefault(key, {}).setdefault(suffix, member)
        elif suffix == b".tar":
            raise DataError(
                f"{path}!{os.fsdecode(member.name)}: is a tar, which no shard contains; put the "
                "shards into a separate folder"
            )
        else:
            continue
        if known is not member:
            one, other = os.fsdecode(known.name), os.fsdecode(member.name)
            raise DataError(
                f"{path}!{other}: has the same key as {one} (the name up to its first dot), but "
                "every image needs its own key; write the shards again"
            )
    if not images:
        raise DataError(f"{path}: contains no image files; fill or remove it")
    return images, labels


def _label(path: Place, content: _Content, image: Member, labels: dict[bytes, Member]) -> Label:
    try:
        cls, described = (_text(content, labels.get(suffix)) for suffix in (_CLS, _JSON))
        if cls is not None and described is None and len(cls) <= _SHORT:
            return parse_class(cls)
        return parse_label(cls, described)
    except ValueError as error:
        raise DataError(f"{path}!{os.fsdecode(image.name)}: {error}") from error


def _text(content: _Content, label: Member | None) -> bytes | None:
    if label is None:
        return None
    if label.size > _MAX_LABEL:
        raise ValueError(f"its label has more than {_MAX_LABEL:,} bytes; write the shards again")
    return content.labels[label.offset]


def _labelled(path: Place, image: Member, label: Label) -> Labelled:
    name = os.fsdecode(image.name)
    folder = name.partition("/")[0] if "/" in name else ""
    file = label.file or name.rpartition("/")[2]
    return Labelled(f"{path}!{name}", folder, file, label)


def _name(member: bytes, label: Label) -> bytes:
    """The member's name, and behind it the name that its file had, if that is another."""
    before = os.fsencode(label.file)
    stem = before.rpartition(b".")[0]
    if not stem or stem == os.path.basename(sample_key(member)):
        return member
    return member + RENAMED + before
