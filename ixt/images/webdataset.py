"""Read WebDataset shards: tars in which each image has its label beside it, under the same key.

A key is a member's path up to the first dot of its file's name: a.jpg and a.cls have the key a.

The rows and the digest are those of the class folders that the images come from if their names are
in the shards, as the keys' last part or as `filename` in .json, and so are those of the classes.
Else the order within a class follows the keys, and names in the digest differ.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple

from ixt.errors import DataError
from ixt.files import reason
from ixt.images.folders import IMAGE_SUFFIXES, Split, is_image
from ixt.images.progress_lines import Report
from ixt.images.shard_classes import Labelled, name_classes
from ixt.images.shard_labels import Label, label_beside_image, parse_label, sample_key
from ixt.images.tar_bytes import TarBytes, TarPlace, open_tar
from ixt.images.tars import (
    Member,
    TarImage,
    TarListing,
    is_hidden,
    list_members,
    to_listing,
)

RENAMED = b"!//"
"""Stands between an image's member and the name that its file had, where that is another: no path
holds two slashes in a row."""

_CLS, _JSON = b".cls", b".json"
_NUM_THREADS = 16
_PEEK = 16  # members; an image and its label lie side by side
_MAX_LABEL = 2**20


class _Sample(NamedTuple):
    """An image of a shard and its label."""

    shard: int
    image: Member
    label: Label


def are_shards(paths: Sequence[TarPlace]) -> bool:
    """Whether any of some tars begins with an image and a label, or whatever else, beside it.

    Raises:
        DataError: as `list_members`.
    """
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return any(pool.map(_is_shard, paths))


def begins_as_shard(path: TarPlace) -> bool:
    """Whether a tar begins with an image and a label beside it; damaged ones do not."""
    try:
        return _is_shard(path)
    except DataError:
        return False


def _is_shard(path: TarPlace) -> bool:
    members = list_members(path, limit=_PEEK)
    names = (member.name for member in members if not is_hidden(member.name))
    return label_beside_image(names) is not None


def list_shards(
    paths: Sequence[TarPlace], split: Split, report: Report | None = None
) -> tuple[TarListing, str]:
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
    found: list[list[_Sample]] = []
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for one in pool.map(_read_shard, range(len(paths)), paths):
            found.append(one)
            if report is not None:
                report(len(found), len(paths))
    samples = list(chain.from_iterable(found))
    described = [_describe(paths[sample.shard], sample) for sample in samples]
    naming = name_classes(described, [path.name for path in paths], split)
    images = [
        TarImage(os.fsencode(name), _name(sample), sample.shard, *sample.image[1:])
        for name, sample in zip(naming.names, samples, strict=True)
    ]
    images.sort(key=lambda image: (image[0], image.name.rpartition(RENAMED)[2], image[2:]))
    return to_listing(images), naming.origin


def _read_shard(number: int, path: TarPlace) -> list[_Sample]:
    images, labels = _sort_members(path)
    lone = labels.keys() - images.keys()
    if lone:
        label = next(iter(labels[min(lone)].values()))
        raise DataError(
            f"{path}!{os.fsdecode(label.name)}: has no image of the same key "
            f"({' '.join(IMAGE_SUFFIXES)}); add the image, or remove the label"
        )
    try:
        with open_tar(path) as tar:
            return [
                _Sample(number, image, _label(path, tar, image, labels.get(key, {})))
                for key, image in images.items()
            ]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error


def _sort_members(path: TarPlace) -> tuple[dict[bytes, Member], dict[bytes, dict[bytes, Member]]]:
    """The image of each key, and its labels by suffix."""
    images: dict[bytes, Member] = {}
    labels: dict[bytes, dict[bytes, Member]] = {}
    for member in list_members(path):
        if is_hidden(member.name):
            continue
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


def _label(path: TarPlace, tar: TarBytes, image: Member, labels: dict[bytes, Member]) -> Label:
    try:
        texts = [_content(tar, labels.get(suffix)) for suffix in (_CLS, _JSON)]
        return parse_label(*texts)
    except ValueError as error:
        raise DataError(f"{path}!{os.fsdecode(image.name)}: {error}") from error


def _content(tar: TarBytes, label: Member | None) -> bytes | None:
    if label is None:
        return None
    if label.size > _MAX_LABEL:
        raise ValueError(f"its label has more than {_MAX_LABEL:,} bytes; write the shards again")
    return tar.at(label.offset, label.size)


def _describe(path: TarPlace, sample: _Sample) -> Labelled:
    name = os.fsdecode(sample.image.name)
    folder = name.partition("/")[0] if "/" in name else ""
    file = sample.label.file or name.rpartition("/")[2]
    return Labelled(f"{path}!{name}", folder, file, sample.label)


def _name(sample: _Sample) -> bytes:
    """The member's name, and behind it the name that its file had, if that is another."""
    member, before = sample.image.name, os.fsencode(sample.label.file)
    stem = before.rpartition(b".")[0]
    if not stem or stem == os.path.basename(sample_key(member)):
        return member
    return member + RENAMED + before
