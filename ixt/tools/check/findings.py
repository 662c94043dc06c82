"""What is to be said of the files: which would break training, and which are worth knowing."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

from PIL import Image

from ixt.images.folders import IMAGE_SUFFIXES
from ixt.images.headers import PILLOW_FORMATS, ImageFormat
from ixt.images.index_table import UnusableTable
from ixt.images.shards import INDEX_FOLDER
from ixt.images.table_files import read_table
from ixt.storage.urls import is_remote
from ixt.tools.check.facts import Colour, Facts, Fault
from ixt.tools.check.survey import Survey

Severity = Literal["breaks training", "note"]
_BREAKS: Severity = "breaks training"
_NOTE: Severity = "note"

TINY_PIXELS = 32
"""A shorter side below this is tiny: a crop of it is mostly interpolation."""
HUGE_PIXELS = 50_000_000
"""More pixels than this are huge: one such image holds its whole batch up."""


class Kind(StrEnum):
    """What a file can be found to be, with severity and explanation, in the order of the report."""

    severity: Severity
    meaning: str

    def __new__(cls, value: str, severity: Severity, meaning: str) -> Self:
        """A kind by its name, with what is known of it."""
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.severity, kind.meaning = severity, meaning
        return kind

    EMPTY = "empty", _BREAKS, "zero bytes"
    TRUNCATED = "truncated", _BREAKS, "the file ends before the picture does"
    UNDECODABLE = "undecodable", _BREAKS, "no decoder gets through"
    NOT_IMAGE = "not an image", _BREAKS, "of no image format, whatever its name"
    UNREADABLE = "unreadable", _BREAKS, "missing, not permitted, or no file"
    ALTERED = "altered", _BREAKS, "not the bytes that were packed; copy its tar again"
    CHANGED = "changed", _BREAKS, "not the bytes that the manifest lists"
    MISSING = "missing", _BREAKS, "the manifest lists it, the set lacks it"
    INDEX = "index damaged", _BREAKS, "copy the packed set again; in a bucket it is refused"
    OUTDATED = "index outdated", _BREAKS, "not as the index says; give ixt data index DIR --rebuild"
    UNKNOWN_CLASS = "class only in val", _BREAKS, "a class in val that is missing from train"
    EMPTIED = "class emptied", _BREAKS, "its last image is in quarantine; remove the folder"
    CORRUPT = "corrupt", _NOTE, "decodes with a libjpeg warning; part of the picture may be garbage"
    LEAK = "in train and val", _NOTE, "the same bytes in both splits; accuracy is flattered"
    CONFLICT = "duplicate, other class", _NOTE, "the same bytes under different labels"
    DUPLICATE = "duplicate, same class", _NOTE, "the same bytes twice in a class"
    MISTYPED = "mistyped", _NOTE, "another format than the name says; decoders go by content"
    CMYK = "CMYK", _NOTE, "four channels; decoded to RGB"
    GREY = "grey", _NOTE, "one channel; decoded to RGB"
    ROTATED = "EXIF-rotated", _NOTE, "EXIF asks for a rotation that training does not apply"
    TINY = "tiny", _NOTE, f"shorter side below {TINY_PIXELS} px"
    HUGE = "huge", _NOTE, f"more than {HUGE_PIXELS // 1_000_000} megapixels"
    UNLISTED = "not in manifest", _NOTE, "the manifest lacks it"
    IGNORED = "ignored", _NOTE, "no image by its name, so training does not see it"


FAULTS = frozenset(Kind[fault.name] for fault in Fault if fault != Fault.NONE)
"""What is wrong with an image itself."""
# OUTDATED is the index's fault, a class its folder's, and an unreadable file may be sound.
REMOVABLE = FAULTS - {Kind.CORRUPT, Kind.UNREADABLE}
"""Kinds that quarantine moves away; CORRUPT only in a strict check."""

_OTHERS = 10  # a placeholder picture may be there ten thousand times

_SUFFIX_FORMATS = {
    suffix: PILLOW_FORMATS[Image.registered_extensions()[suffix]] for suffix in IMAGE_SUFFIXES
}


@dataclass(frozen=True)
class Finding:
    """One thing found about one file."""

    kind: Kind
    path: str
    """Relative to the data root."""
    detail: str = ""
    others: tuple[str, ...] = field(default=())
    """At most ten other files with the same content, likewise relative, for duplicates."""


def find(surveys: Sequence[Survey]) -> list[Finding]:
    """Everything worth saying of some splits' files, in the order of the report."""
    found = [finding for one in surveys for finding in _of_files(one)]
    found += _duplicates(surveys)
    found += _unknown_classes(surveys)
    found += [finding for one in surveys for finding in _damaged_index(one)]
    found += [finding for one in surveys for finding in _ignored(one)]
    return in_order(found)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Sorted by kind, in the order of the report, and then by path."""
    order = {kind: place for place, kind in enumerate(Kind)}
    return sorted(findings, key=lambda finding: (order[finding.kind], finding.path))


def relative_paths(one: Survey) -> list[str]:
    """Paths of a split's images, `shard.tar!member` of those in tars, relative to the data root."""
    index = one.index
    above = f"{os.fspath(index.root)}/"
    return [path.removeprefix(above) for path in index.paths(range(len(index)))]


def _of_files(one: Survey) -> Iterator[Finding]:
    sizes = one.index.sizes.tolist()
    for path, facts, size in zip(relative_paths(one), one.facts, sizes, strict=True):
        for kind, detail in _of_file(path, facts, (size[0], size[1])):
            yield Finding(kind, path, detail)


def _of_file(path: str, facts: Facts, indexed: tuple[int, int]) -> Iterator[tuple[Kind, str]]:
    if facts.fault != Fault.NONE:
        yield Kind[facts.fault.name], facts.detail
    if facts.image_format == ImageFormat.UNREADABLE:
        return
    height, width = facts.height, facts.width
    if (height, width) != indexed:
        yield Kind.OUTDATED, f"{height} x {width}, in the index {indexed[0]} x {indexed[1]}"
    suffix = os.path.splitext(path)[1].lower()  # a listed file may have any
    if _SUFFIX_FORMATS.get(suffix, facts.image_format) != facts.image_format:
        yield Kind.MISTYPED, f"holds {facts.image_format.name}"
    if facts.colour == Colour.GREY:
        yield Kind.GREY, ""
    if facts.colour == Colour.CMYK:
        yield Kind.CMYK, ""
    if facts.orientation != 1:
        yield Kind.ROTATED, f"orientation {facts.orientation}"
    if min(height, width) < TINY_PIXELS:
        yield Kind.TINY, f"{height} x {width}"
    if height * width > HUGE_PIXELS:
        yield Kind.HUGE, f"{height} x {width}"


def _duplicates(surveys: Iterable[Survey]) -> Iterator[Finding]:
    """One finding per file that shares its content with another; the gravest kind of each."""
    groups: dict[bytes, list[tuple[str, int, str]]] = defaultdict(list)
    for split, one in enumerate(surveys):
        labels = one.index.labels.tolist()
        for path, facts, label in zip(relative_paths(one), one.facts, labels, strict=True):
            if facts.stamp[0] > 0 and any(facts.digest):
                member = (path, split, one.index.classes[label])
                groups[facts.digest].append(member)
    for members in groups.values():
        if len(members) < 2:
            continue
        paths, splits, classes = zip(*members, strict=True)
        kind = Kind.LEAK if len(set(splits)) > 1 else Kind.DUPLICATE
        if len(set(classes)) > 1:
            kind = Kind.CONFLICT if kind == Kind.DUPLICATE else kind
        few = paths[: _OTHERS + 1]
        for path in paths:
            others = tuple([other for other in few if other != path][:_OTHERS])
            more = f" and {len(paths) - 2:,} more" if len(paths) > 2 else ""
            yield Finding(kind, path, f"same as {others[0]}{more}", others)


def _damaged_index(one: Survey) -> Iterator[Finding]:
    """The index that came with a packed set, where the tars had to be listed instead."""
    if is_remote(str(one.index.folder)):  # refused when it is loaded
        return
    folder = Path(one.index.folder) / INDEX_FOLDER
    if one.index.shards and folder.is_dir():
        try:
            read_table(folder, packed=True)
        except UnusableTable as error:
            yield Finding(Kind.INDEX, f"{one.index.name}/{INDEX_FOLDER}", str(error))


def against_checksums(
    surveys: Sequence[Survey], listed: Mapping[str, bytes], *, whole: bool
) -> Iterator[Finding]:
    """Where some splits, or the whole set, differ from a list of checksums, SHA-256 by path."""
    found = checksums(surveys)
    unreadable = {path for one in surveys for path in relative_paths(one)} - found.keys()
    for path, digest in found.items():
        if path not in listed:
            yield Finding(Kind.UNLISTED, path)
        elif listed[path] != digest:
            yield Finding(Kind.CHANGED, path)
    places = tuple(one.index.name + mark for one in surveys for mark in "/!")
    # Outside of folders for each split, no path says whether it is of one that was checked.
    mixed = any(one.index.place != str(one.index.folder) for one in surveys)
    anywhere = mixed and whole
    for path in listed.keys() - found.keys() - unreadable:
        if anywhere or path.startswith(places):
            yield Finding(Kind.MISSING, path)


def checksums(surveys: Sequence[Survey]) -> dict[str, bytes]:
    """SHA-256 of each image whose bytes could be read, by path relative to the data root."""
    return {
        path: facts.digest
        for one in surveys
        for path, facts in zip(relative_paths(one), one.facts, strict=True)
        if any(facts.digest)
    }


def _unknown_classes(surveys: Sequence[Survey]) -> Iterator[Finding]:
    """Class folders of val that train lacks, which training refuses."""
    if len(surveys) < 2:
        return
    train, val = (one.index for one in surveys)
    for name in sorted(set(val.classes) - set(train.classes)):
        yield Finding(Kind.UNKNOWN_CLASS, f"{val.name}/{name}")


def _ignored(one: Survey) -> Iterator[Finding]:
    """Files in class folders that the index leaves out because of their names."""
    index = one.index
    # What else a tar holds is listed nowhere; of a bucket or by a list, only images are.
    if index.shards or index.list_name or is_remote(str(index.folder)):
        return
    start = len(os.fspath(index.root)) + 1
    for name in index.classes:
        for folder, below, files in os.walk(Path(index.folder) / name, followlinks=True):
            below[:] = [each for each in below if not each.startswith(".")]
            for file in sorted(files):
                if not file.startswith(".") and not file.lower().endswith(IMAGE_SUFFIXES):
                    yield Finding(Kind.IGNORED, os.path.join(folder, file)[start:])
