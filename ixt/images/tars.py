"""Find the images inside plain tars: names and byte ranges, nothing is extracted.

What a tar may hold: the images of one class (n01440764.tar), such class tars (the outer
ILSVRC2012_img_train.tar), the numbered images of ILSVRC2012_img_val.tar, or CLASS/IMAGE members,
as `ixt data pack` writes them.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import BinaryIO, NamedTuple

import numpy as np

from ixt.errors import DataError, first_line
from ixt.files import reason
from ixt.images.classes import validation_class, validation_labels
from ixt.images.folders import Listing, Place, is_hidden, is_image
from ixt.images.progress_lines import Report, map_reporting
from ixt.images.shard_bytes import length_of, open_shard
from ixt.images.shard_labels import label_beside_image

_GZIP = b"\x1f\x8b"
_BLOCK = 512
_NUMBERED = "ILSVRC2012_img_val.tar"
NESTED = b"!"
"""Stands between the name of an inner tar and the name of its member."""


class Member(NamedTuple):
    """A file within a tar."""

    name: bytes
    """Its path there."""
    offset: int
    """Its first byte, counted from the start of the outermost tar."""
    size: int
    """Its length in bytes."""


class TarImage(NamedTuple):
    """An image in a tar."""

    class_name: bytes
    name: bytes
    shard: int
    offset: int
    size: int


class _Tar(NamedTuple):
    """A tar, or one within another."""

    path: Place
    shard: int
    offset: int
    size: int
    prefix: bytes
    class_name: bytes


_Found = tuple[list[TarImage], list[_Tar]]


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
    images = list(chain.from_iterable(found for found, _ in (*first, *second)))
    # Stable, so images without an order of their own keep the place that they were given.
    images.sort(key=lambda image: image.class_name)
    return to_listing(images)


def list_members(
    path: Place, offset: int = 0, size: int | None = None, limit: int | None = None
) -> list[Member]:
    """List the regular files of a tar in the order in which they are stored.

    Args:
        path: the outermost tar.
        offset: where the tar to list begins in it.
        size: its length; None for the rest of the file.
        limit: stop after so many.

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
            members = []
            for info in islice(walk_tar(tar.file, offset, length, str(path)), limit):
                name = os.fsencode(info.name).removeprefix(b"./")
                members.append(Member(name, info.offset_data, info.size))
                tar.keep(*members[-1])
            return members
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error


def walk_tar(file: BinaryIO, start: int, length: int, where: str) -> Iterator[tarfile.TarInfo]:
    """Go through the files of a tar that is a byte range of an open file; folders are passed over.

    Args:
        file: the open file; nobody else may move its position meanwhile.
        start: first byte of the tar; offsets of its members count from the start of the file.
        length: bytes of the tar.
        where: name of the tar for messages.

    Raises:
        DataError: the tar is cut off or damaged, or holds what no image set does: a link, a
            device, a path that leads out of it.
        OSError: it cannot be read; the error names `where`.
    """
    end = start + length
    try:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps a kilobyte for each
                _refuse_odd(where, info)
                if not 0 <= info.size <= end - info.offset_data:
                    raise tarfile.ReadError("unexpected end of data")
                if not info.isdir():
                    yield info
            file.seek(tar.offset)
            if tar.offset + _BLOCK > end or file.read(_BLOCK) != bytes(_BLOCK):
                # tarfile takes a bad header, and the end of the file, for the end of the archive.
                raise tarfile.ReadError(f"no end mark at byte {tar.offset}")
    # tarfile computes with what headers claim, sizes and sparse maps too.
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError) as error:
        raise DataError(
            f"{where}: cannot be read as a tar ({first_line(error)}); it is cut off or damaged; "
            "download or copy it again"
        ) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, where) from error


def _refuse_odd(where: str, info: tarfile.TarInfo) -> None:
    problem = None
    if info.name.startswith("/") or ".." in info.name.split("/"):
        problem = "points outside the tar"
    elif not info.isdir() and (not info.isreg() or info.issparse()):
        kind = "a link" if info.issym() or info.islnk() else "not a plain file"
        problem = f"is {kind}; only plain files are read"
    if problem is not None:
        raise DataError(f"{where}: member {info.name!r} {problem}; download or pack the tar again")


def _list_tar(tar: _Tar, *, packed: bool) -> _Found:
    """The images directly in a tar, in order, and the tars in it."""
    members = list_members(tar.path, tar.offset, tar.size)
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
            images.append(TarImage(class_name, name, tar.shard, member.offset, member.size))
    if not images and not inner:
        shown = f" in {_text(tar.prefix[:-1])}" if tar.prefix else ""
        raise DataError(f"{tar.path}: contains no image files{shown}; fill or remove it")
    if not packed:
        _refuse_labels(tar, members)
        images.sort()
    _refuse_twice(tar.path, images)
    return images, inner


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


def _refuse_twice(path: Place, images: Sequence[TarImage]) -> None:
    seen: set[bytes] = set()
    for image in images:
        if image.name in seen:
            raise DataError(
                f"{path}: contains {_text(image.name)} twice; pack the images again, each of them "
                "once"
            )
        seen.add(image.name)


def to_listing(images: Sequence[TarImage]) -> Listing:
    """The listing of images that are sorted by class."""
    counts = Counter(image.class_name for image in images)  # in the order of the images
    return Listing(
        classes=tuple(os.fsdecode(name) for name in counts),
        counts=tuple(counts.values()),
        names=[image.name for image in images],
        shards=np.array([image.shard for image in images], np.int32),
        offsets=np.array([image.offset for image in images], np.int64),
        sizes=np.array([image.size for image in images], np.int64),
    )


def _text(name: bytes) -> str:
    return os.fsdecode(name)
