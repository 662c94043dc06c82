"""Build the table of images in a bucket: of class folders with an image each, or of tars.

Rows, names and order are those that `index` gives to the same images on a disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ixt.errors import DataError
from ixt.images.bucket_layout import RemoteLayout
from ixt.images.folders import (
    IMAGE_SUFFIXES,
    Listing,
    Split,
    few,
    is_image,
    refuse_several_labels,
    some_labels,
)
from ixt.images.headers import Headers, read_object_headers
from ixt.images.index_cache import say_once
from ixt.images.index_table import TAR_RULES, Table, make_table
from ixt.images.progress_lines import Report
from ixt.images.shards import Stamp
from ixt.images.tars import TarListing, is_hidden, list_tars
from ixt.images.webdataset import are_shards, list_shards
from ixt.storage.objects import RemoteFile, list_objects, read_object

_NUM_THREADS = 16
_FIRST = 4
_OBJECT_RULES = {"objects": 1}
"""In place of folders, in a table of objects: by which rules they were listed."""

Files = Mapping[str, RemoteFile]


def list_class_objects(layout: RemoteLayout) -> dict[str, RemoteFile]:
    """The objects in the class folders of a split, by their names below it, but hidden ones."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = pool.map(lambda name: list_objects(f"{layout.folder}/{name}"), layout.classes)
        return {
            f"{name}/{below}": file
            for name, files in zip(layout.classes, found, strict=True)
            for below, file in files.items()
            if not is_hidden(os.fsencode(below))
        }


def build_from_folders(layout: RemoteLayout, files: Files, report: Report) -> Table:
    """Open every image in class folders.

    Raises:
        DataError: a class folder holds no image, or labels of several classes.
        StorageError: the bucket cannot be read, or an object has changed since it was listed.
    """
    by_class: dict[str, list[str]] = {name: [] for name in layout.classes}
    labels: dict[str, list[str]] = {name: [] for name in layout.classes}
    for name in files:
        chosen = by_class if is_image(os.fsencode(name)) else labels
        if chosen is by_class or name.endswith(".cls"):
            chosen[name.partition("/")[0]].append(name)
    empty = [name for name, found in by_class.items() if not found]
    if empty:
        raise DataError(
            f"{layout.folder}: {few(empty, 'class folder')} without image files "
            f"({' '.join(IMAGE_SUFFIXES)}); fill or remove such folders"
        )
    for name, found in labels.items():
        texts = [read_object(f"{layout.folder}/{label}") for label in some_labels(found)]
        refuse_several_labels(f"{layout.folder}/{name}", texts)
    names = [name for found in by_class.values() for name in sorted(found, key=os.fsencode)]
    counts = tuple(len(found) for found in by_class.values())
    listing = Listing(layout.classes, counts, [os.fsencode(name) for name in names], {})
    urls = [f"{layout.folder}/{name}" for name in names]
    headers = read_object_headers(urls, [files[name] for name in names], report)
    none = np.zeros(0, np.int32), np.zeros(0, np.int64)
    return make_table(listing, headers, *none, _OBJECT_RULES, ())


def build_from_tars(layout: RemoteLayout, split: Split, report: Report) -> Table:
    """Read every tar once; progress is that of tars.

    Raises:
        DataError: as `list_shards` or `list_tars`.
        StorageError: the bucket cannot be read, or a tar has changed since it was listed.
    """
    listing: TarListing
    if layout.begin_as_shards or are_shards(layout.tars[:_FIRST]):
        listing, origin = list_shards(layout.tars, split, report)
        say_once(
            f"{layout.folder}: {len(layout.tars)} WebDataset shards of {split}, "
            f"{len(listing.classes)} classes, which are named by {origin}"
        )
    else:
        listing = list_tars(layout.tars, report)
    stamps = tuple(Stamp(tar.name, tar.file.size, 0, tar.file.version) for tar in layout.tars)
    headers = _headers(layout, listing)
    return make_table(listing, headers, listing.shards, listing.offsets, TAR_RULES, stamps)


def _headers(layout: RemoteLayout, listing: TarListing) -> Headers:
    """What was found of each image while the tars were listed."""
    places = zip(listing.shards.tolist(), listing.offsets.tolist(), strict=True)
    rows = np.array([layout.tars[shard].headers[offset] for shard, offset in places], np.int64)
    return Headers(rows[:, 0].astype(np.uint8), rows[:, 1:].astype(np.int32), listing.sizes)
