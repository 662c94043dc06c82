"""Images held out for validation where a set has none of its own; a pure function of their names.

No image is moved, and none is in both parts.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ixt.errors import DataError
from ixt.images import shards
from ixt.images.folders import Split, place_of
from ixt.images.index import Index, load_index, take_rows
from ixt.images.lists import portable_part
from ixt.images.shard_classes import RENAMED
from ixt.images.tars import NESTED


def load_split(root: str | Path, split: Split, val_fraction: float | None) -> Index:
    """The images of a split, which may be a part of the training images.

    Args:
        root: as for `load_index`.
        split: train or val.
        val_fraction: of the recipe; None where the set has validation images of its own.

    Raises:
        DataError: as `load_index`; or a set with validation images is to hold some out, too.
    """
    if val_fraction is None:
        return load_index(root, split)
    own = own_val(str(root))
    if own is not None:
        raise DataError(
            f"{root}: contains {own}, but data.val_fraction is for sets without it; set it to "
            f"null to validate on {own}, or move {own} away"
        )
    return hold_out(load_index(root, "train"), val_fraction, split)


def own_val(root: str) -> str | None:
    """Name of a data root's validation images; None where it has none."""
    return shards.own_val(place_of(root))


def own_splits(root: str) -> tuple[Split, ...]:
    """The splits whose images a data root contains: train alone where it has no val."""
    return ("train",) if own_val(root) is None else ("train", "val")


def hold_out(index: Index, fraction: float, split: Split) -> Index:
    """The part of some training images to train on, or the part to validate on.

    An image is held out if a hash of its class and name is below the fraction, so it stays where
    it is when others are added. Of each class the image with the largest hash is trained on: only
    where a class had all others held out can a new image of it send one to the other part.

    Args:
        index: all images.
        fraction: share to hold out, between 0 and 1.
        split: train or val; val has the classes of which an image is held out.

    Raises:
        DataError: no image is held out.
    """
    hashes = _hashes(index)
    largest = np.zeros(len(index.classes))
    np.maximum.at(largest, index.labels, hashes)
    held = (hashes < fraction) & (hashes < largest[index.labels])
    if not held.any():
        raise DataError(
            f"{index.place}: data.val_fraction {fraction:g} holds out none of its {len(index)} "
            f"images in {len(index.classes)} classes; add images, or increase it"
        )
    if split == "train":
        return take_rows(index, np.flatnonzero(~held))
    return _without_empty_classes(take_rows(index, np.flatnonzero(held)))


def _without_empty_classes(index: Index) -> Index:
    kept = np.unique(index.labels)
    labels = np.searchsorted(kept, index.labels).astype(np.int32)
    return replace(index, classes=tuple(index.classes[n] for n in kept), labels=labels)


def portable_names(index: Index) -> list[str]:
    """CLASS/NAME of each image, or CLASS/FOLDER/NAME, without suffix: the same in every layout.

    Dots are underscores, as in packed sets.
    """
    names = []
    prefix = f"{index.folder}/"
    for source, label in zip(index.ranges(range(len(index))), index.labels.tolist(), strict=True):
        path = source.member.rpartition(f".tar{NESTED.decode()}")[2] or (
            source.path.removeprefix(prefix)
        )
        if index.list_name:
            path = f"/{portable_part(path, index.classes[label])}"
        # The name that a file had before it came into a shard.
        path = path.rpartition(RENAMED.decode())[2]
        folder, _, base = path.rpartition("/")
        below = folder.partition("/")[2]
        stem = (base.rpartition(".")[0] or base).replace(".", "_")
        names.append("/".join(part for part in (index.classes[label], below, stem) if part))
    return names


def _hashes(index: Index) -> NDArray[np.float64]:
    """(n,) numbers in [0, 1), each from the name of an image alone."""
    digests = (hashlib.sha256(os.fsencode(name)).digest() for name in portable_names(index))
    words = np.frombuffer(b"".join(digest[:8] for digest in digests), "<u8")
    return np.asarray(words / 2.0**64, np.float64)
