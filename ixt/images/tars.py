"""Find the images inside plain tars: names and byte ranges, nothing is extracted.

What a tar may hold: the images of one class (n01440764.tar), such class tars (the outer
ILSVRC2012_img_train.tar), the numbered images of ILSVRC2012_img_val.tar, or CLASS/IMAGE members,
as `ixt data pack` writes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

from ixt.errors import DataError
from ixt.files import reason
from ixt.images.classes import validation_class, validation_labels
from ixt.images.folders import Listing, Place, is_hidden, is_image
from ixt.images.headers import Head
from ixt.images.progress_lines import Report, map_reporting
from ixt.images.shard_bytes import ShardBytes, length_of, open_shard
from ixt.images.shard_labels import label_beside_image
from ixt.images.shard_rows import ShardImage, ShardRows, to_listing, to_rows
from ixt.images.tar_walk import Member, walk_tar

_GZIP = b"\x1f\x8b"
_NUMBERED = "ILSVRC2012_img_val.tar"
NESTED = b"!"
"""Stands between the name of an inner tar and the name of its member."""


class _Tar(NamedTuple):
    """A tar, or one within another."""

    path: Place
    shard: int
    offset: int
    size: int
    prefix: bytes
    class_name: bytes


_Found = tuple[ShardRows[bytes], list[_Tar]]  # images by class, and tars


def list_tars(
    paths: Sequence[Place], report: Report | None = None, *, packed: bool = False
) -> Listing:
    """List the images of all tars of a split.

    Args:
        paths: the tars.
        report: called with (tars listed, tars in all), then so for the tars within them.
        packed: `ixt data pack` wrote them, so each image lies in its class and has a label beside
            it that says the same. Elsewhere such labels are refused: the tars' names, by which
            classes go here, may say something else.

    Raises:
        DataError: a tar is cut off, compressed, contains something that cannot be trusted, or
            contains no image.
    """
    list_one = partial(_list_tar, packed=packed)
    outer = [
        _Tar(path, shard, 0, length_of(path), b"", os.fsencode(path.stem))
        for shard, path in enumerate(paths)
    ]
    first = map_reporting(list_one, outer, report)
    inner = list(chain.from_iterable(tars for _, tars in first))
    second = map_reporting(list_one, inner, report)
    nested_again = [tar for _, tars in second for tar in tars]
    if nested_again:
        tar = nested_again[0]
        raise DataError(
            f"{tar.path}: {_text(tar.prefix)}: is a tar within a tar within a tar, "
            "which ixt does not read"
        )
    parts = [rows for rows, _ in (*first, *second)]
    return to_listing(
        parts, [tar.shard for tar in (*outer, *inner)], [rows.kinds for rows in parts]
    )


@contextmanager
def open_tar(
    path: Place, offset: int = 0, size: int | None = None
) -> Iterator[tuple[ShardBytes, Iterator[Member]]]:
    """Open a tar: its bytes, and its regular files in the order in which they are stored.

    Args:
        path: the outermost tar.
        offset: where the tar to list begins in it.
        size: its length; None for the rest of the file.

    Raises:
        DataError: as `walk_tar`, or the tar is compressed or not readable.
    """
    try:
        with open_shard(path) as tar:
            if tar.at(offset, 2) == _GZIP:
                raise DataError(
                    f"{path}: is compressed, so its images cannot be read in random order; "
                    "decompress it once with gunzip (the result ends in .tar), or give the folder"
                )
            length = tar.size - offset if size is None else size
            yield tar, walk_tar(tar, offset, length, str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error


def list_members(path: Place, limit: int | None = None) -> list[Member]:
    """List the regular files of a tar in the order in which they are stored.

    Args:
        path: the tar.
        limit: stop after so many.

    Raises:
        DataError: as `open_tar`.
    """
    with open_tar(path) as (_, members):
        return list(islice(members, limit))


def _list_tar(tar: _Tar, *, packed: bool) -> _Found:
    """The images directly in a tar, in order, and the tars in it."""
    members, heads = _read_members(tar)
    images, inner = [], []
    for member in members:
        if is_hidden(member.name):
            continue
        base = os.path.basename(member.name)
        if base.endswith(b".tar"):
            stem = base.removesuffix(b".tar")
            prefix = tar.prefix + member.name + NESTED
            inner.append(_Tar(tar.path, tar.shard, member.offset, member.size, prefix, stem))
        elif is_image(base):
            class_name = _class_name(tar, member, packed)
            name = tar.prefix + member.name
            head = heads[member.offset]
            images.append(ShardImage(class_name, name, member.offset, member.size, head))
    if not images and not inner:
        shown = f" in {_text(tar.prefix[:-1])}" if tar.prefix else ""
        raise DataError(f"{tar.path}: contains no image files{shown}; fill or remove it")
    if not packed:
        _refuse_labels(tar, members)
        images.sort()
    rows = to_rows(images)
    _refuse_twice(tar.path, rows.names)
    return rows, inner


def _read_members(tar: _Tar) -> tuple[list[Member], dict[int, Head]]:
    """The members of a tar, and the headers of its images by their first bytes."""
    members, heads = [], {}
    with open_tar(tar.path, tar.offset, tar.size) as (content, found):
        for member in found:
            members.append(member)
            if is_image(member.name) and not is_hidden(member.name):
                heads[member.offset] = content.head(member.offset, member.size)
    return members, heads


def _refuse_labels(tar: _Tar, members: Sequence[Member]) -> None:
    """Refuse labels beside images whose class would be the name of their tar."""
    label = label_beside_image(member.name for member in members)
    if label is not None:
        raise DataError(
            f"{tar.path}: contains {_text(tar.prefix + label)} beside the image of that name, as "
            "WebDataset shards do, but not at its beginning; write the shards again, each image "
            "next to its label, or remove such members to read the tar as one class"
        )


def _class_name(tar: _Tar, member: Member, packed: bool) -> bytes:
    if tar.path.name == _NUMBERED:
        name = validation_class(os.path.basename(_text(member.name)), validation_labels())
        if name is None:
            raise DataError(
                f"{tar.path}: member {_text(member.name)} is not a validation image of "
                "ILSVRC2012; download the tar again, or give class folders"
            )
        return name.encode()
    folder, _, _ = member.name.rpartition(b"/")
    if packed and not folder:
        raise DataError(
            f"{tar.path}: member {_text(member.name)} is not in a class folder, so ixt data pack "
            "did not write it; move the tar away from the packed set"
        )
    return folder.split(b"/")[0] if folder else tar.class_name


def _refuse_twice(path: Place, names: Sequence[bytes]) -> None:
    seen: set[bytes] = set()
    for name in names:
        if name in seen:
            raise DataError(
                f"{path}: contains {_text(name)} twice; pack the images again, each of them once"
            )
        seen.add(name)


def _text(name: bytes) -> str:
    return os.fsdecode(name)
