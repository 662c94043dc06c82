"""Which class the number in a label stands for, as far as shards or lists themselves say so.

A number never changes its meaning here: names are taken only where they are in the order of the
numbers, and where anything contradicts them the set is refused, or its classes keep their numbers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ixt.errors import DataError
from ixt.images.classes import (
    IMAGENET_CLASSES,
    imagenet_synsets,
    validation_class,
    validation_labels,
)
from ixt.images.folders import SPLIT_FOLDERS, Listing, Place, Split, few
from ixt.images.progress_lines import Report, map_reporting
from ixt.images.shard_labels import WORDNET_ID, Label
from ixt.images.shard_rows import ShardImage, ShardRows, to_listing, to_rows

_IMAGENET_FILE = re.compile(r"(n\d{8})_\d+(\..*)?")
_IMAGENET_SHARD = re.compile(r"imagenet-?1k\b.*", re.IGNORECASE)

RENAMED = b"!//"
"""Stands between an image's member and the name that its file had, where that is another: no path
holds two slashes in a row."""
_Hint = Callable[["Labelled"], str | None]


class Labelled(NamedTuple):
    """An image and its label."""

    where: str
    """Its name in error messages: `shard.tar!member`, or `list.csv:2`."""
    folder: str
    """The first folder of its member, or the one that a listed file lies in; may be empty."""
    file: str
    """Name of its file."""
    label: Label
    """What is said of its class."""


class Naming(NamedTuple):
    """The classes of a split."""

    names: list[str]
    """The class of each image."""
    origin: str
    """Where the names come from, in words that follow `classes are named by`."""


def list_samples(
    read: Callable[[Place], Iterable[ShardImage[Labelled]]],
    paths: Sequence[Place],
    split: Split,
    report: Report | None,
    num_threads: int = 16,
) -> tuple[Listing, str]:
    """List the images of all shards of a split; each shard is read once, in order.

    Args:
        read: lists the images of one.
        paths: the shards.
        split: of which they are.
        report: called with (shards read, shards in all).
        num_threads: shards that are read at once.

    Returns:
        The images, ordered by class and then by name, so in the order of the class folders that
        they may come from; and by what the classes are named, in words.

    Raises:
        DataError: there are no images; or as `read` and `name_classes`.
    """

    def read_rows(path: Place) -> ShardRows[Labelled]:
        return to_rows(read(path), _evidence)

    parts = map_reporting(read_rows, paths, report, num_threads)
    # One image stands for all with the same evidence: most sets have as many as classes.
    firsts: dict[Hashable, Labelled] = {}
    for part in parts:
        for labelled in part.kinds:
            firsts.setdefault(_evidence(labelled), labelled)
    if not firsts:
        raise DataError(f"{paths[0].parent}: {few([p.name for p in paths], 'file')} without rows")
    naming = name_classes(list(firsts.values()), [path.name for path in paths], split)
    names = dict(zip(firsts, map(os.fsencode, naming.names), strict=True))
    classes = [[names[_evidence(labelled)] for labelled in part.kinds] for part in parts]
    listing = to_listing(parts, range(len(parts)), classes, _file_name)
    return listing, naming.origin


def _file_name(name: bytes) -> bytes:
    """The name that an image's file had before it came into the shard."""
    return name.rpartition(RENAMED)[2]


def _evidence(image: Labelled) -> Hashable:
    """All that `name_classes` looks at."""
    return image.folder, _wordnet_id(image), image.label.number, image.label.name


def name_classes(images: Sequence[Labelled], shards: Iterable[str], split: Split) -> Naming:
    """Name the class of each image.

    By what the labels call it; else, where these only number it, by the folder or the WordNet ID
    in the name of each image, or by ImageNet-1k where the shards are called so; else by the number.

    Args:
        images: all of a split.
        shards: file names of its tars, or of its list.
        split: of which it is; only a train split has to have every class.

    Raises:
        DataError: labels contradict each other or ImageNet-1k's class order, or some give numbers
            and others do not, or images to train on leave out a number.
    """
    numbers = {image.label.number for image in images}
    if numbers == {None}:
        return Naming([image.label.name or "" for image in images], "their labels")
    if None in numbers:
        bare = next(image for image in images if image.label.number is None)
        raise DataError(
            f"{bare.where}: its label gives no class number, but those of other images do; write "
            "the labels again, all of one kind"
        )
    known = {number for number in numbers if number is not None}
    is_imagenet = max(known) < IMAGENET_CLASSES and all(map(_IMAGENET_SHARD.fullmatch, shards))
    complete = is_imagenet or split == "train"
    for table, origin in _tables(images, known, is_imagenet, complete):
        if table.keys() == known and _is_rising(table):
            return Naming([table[_number(image)] for image in images], origin)
    if split == "train" and max(known) >= len(known):
        missing = min(set(range(max(known))) - known)
        raise DataError(
            f"{images[0].where.partition('!')[0]}: no image of its split has class number "
            f"{missing}, but some have {max(known)}; add the images that are missing, or number "
            "the classes from 0"
        )
    table = {number: f"{number:05d}" for number in known}
    origin = f"their numbers, {min(table.values())} to {max(table.values())}"
    return Naming([table[_number(image)] for image in images], origin)


def _tables(
    images: Sequence[Labelled], known: set[int], is_imagenet: bool, complete: bool
) -> Iterable[tuple[Mapping[int, str], str]]:
    """Class names by number, the best founded first; a table may lack numbers or be unordered."""
    told = _told_names(images)
    if told:
        _refuse_other_order(images, told, complete)
        yield told, "their labels"
    yield _hinted(images, _class_folder, complete), "the folders in the names of its images"
    yield _hinted(images, _wordnet_id, complete), "the WordNet IDs in the names of its images"
    if is_imagenet:
        _refuse_other_files(images)
        if len(known) == IMAGENET_CLASSES:
            table = dict(enumerate(imagenet_synsets()))
            yield table, "ImageNet-1k's class order, because its shards are called imagenet1k"


def _told_names(images: Sequence[Labelled]) -> dict[int, str]:
    """The names that labels give; refused where a number has two, or a WordNet ID has."""
    by_number: dict[int, Labelled] = {}
    by_name: dict[str, Labelled] = {}
    for image in images:
        name = image.label.name
        if name is None:
            continue
        firsts = [by_number.setdefault(_number(image), image)]
        if WORDNET_ID.fullmatch(name):  # words may be the same: ImageNet-1k has two cranes
            firsts.append(by_name.setdefault(name, image))
        for first in firsts:
            if first.label[:2] != image.label[:2]:
                raise DataError(
                    f"{image.where}: its label gives class {_number(image)} and {name}, but that "
                    f"of {first.where} gives {_number(first)} and {first.label.name}; one of them "
                    "is wrong, so write the labels again"
                )
    return {number: image.label.name or "" for number, image in by_number.items()}


def _refuse_other_order(
    images: Sequence[Labelled], table: Mapping[int, str], complete: bool
) -> None:
    """Refuse WordNet IDs of ImageNet-1k with numbers that are not in its class order."""
    number = _misplaced(table, complete)
    if number is not None:
        image = next(image for image in images if image.label.name == table[number])
        place = imagenet_synsets().index(table[number])
        raise DataError(
            f"{image.where}: its label gives class {number} and {table[number]}, which is class "
            f"{place} of ImageNet-1k; number the classes in the order of their WordNet IDs"
        )


def _misplaced(table: Mapping[int, str], complete: bool) -> int | None:
    """The first number that does not fit its WordNet ID; None if all do, or others are named.

    Numbers are places in ImageNet-1k, or count those of its classes that a set has: then a number
    is at most the place, and there are all from 0 on where the split has every class.
    """
    own = not complete or table.keys() == set(range(len(table)))
    places = {name: place for place, name in enumerate(imagenet_synsets())}
    if not all(name in places for name in table.values()):
        return None
    before = -1
    for number in sorted(table):
        place = places[table[number]]
        if place < number or place <= before or (place != number and not own):
            return number
        before = place
    return None


def _refuse_other_files(images: Sequence[Labelled]) -> None:
    """In shards that are called ImageNet-1k, a file's WordNet ID is the class of its number."""
    for image in images:
        found, name = _wordnet_id(image), imagenet_synsets()[_number(image)]
        if found not in (None, name):
            raise DataError(
                f"{image.where}: its label gives class {_number(image)}, which is {name} in "
                f"ImageNet-1k, but its file is of {found}; write the shards again, or rename them "
                "if they contain other classes than ImageNet-1k's"
            )


def _hinted(images: Sequence[Labelled], hint: _Hint, complete: bool) -> dict[int, str]:
    """Names that may only look like classes: none unless they agree with all of the numbers."""
    table: dict[int, str] = {}
    for image in images:
        name = hint(image)
        if name is None or table.setdefault(_number(image), name) != name:
            return {}
    return {} if _misplaced(table, complete) is not None else table


def _wordnet_id(image: Labelled) -> str | None:
    """The class of a file of ImageNet-1k by its name: n01440764_10026, ILSVRC2012_val_00000001."""
    match = _IMAGENET_FILE.fullmatch(image.file)
    if match:
        return match[1]
    return validation_class(f"{image.file.partition('.')[0]}.JPEG", validation_labels())


def _class_folder(image: Labelled) -> str | None:
    is_split = any(image.folder in names for names in SPLIT_FOLDERS.values())
    return None if is_split else image.folder or None


def _is_rising(table: Mapping[int, str]) -> bool:
    """Whether the names are in the order of the numbers, so that labels keep theirs."""
    names = [os.fsencode(table[number]) for number in sorted(table)]
    return all(one < other for one, other in pairwise(names))


def _number(image: Labelled) -> int:
    assert image.label.number is not None
    return image.label.number
