"""What tells one set of images from another, the same in every layout: folders, tars, packed sets.

Of classes, labels, names, sizes in pixels and lengths in bytes; the pixels are not read.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixt.images.index import Index

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class DataDigest:
    """The images of a split in short."""

    digest: str
    """SHA-256, in hexadecimal."""
    num_images: int
    classes: dict[str, str]
    """Number of images of each class, and 16 hexadecimal digits that stand for them."""

    @property
    def short(self) -> str:
        """The first 64 bits, as rows of the ledger have it."""
        return self.digest[:16]

    def row(self) -> dict[str, Any]:
        """The digest as plain data, for JSON."""
        return asdict(self)


def digest_images(index: Index) -> DataDigest:
    """Digest a split; 0.3 s for 1.28 M images.

    Names count as far as every layout keeps them: the file's own, without its suffix, from the
    first hyphen on left out, and with underscores for dots. `ixt data pack` writes such names.
    """
    names, lengths = _plain_names(index)
    numbers = np.column_stack([index.num_bytes, index.sizes, lengths]).astype("<i8")
    ends = np.concatenate([[0], np.cumsum(lengths)])
    labels = index.labels.astype("<i4")
    counts = np.bincount(labels, minlength=len(index.classes)).tolist()
    digests = [hashlib.sha256() for _ in index.classes]
    # Runs of the same label; one per class, since rows are sorted.
    bounds = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    for start, end in pairwise(bounds):
        digest = digests[labels[start]]
        digest.update(numbers[start:end].data)
        digest.update(names[ends[start] : ends[end]])
    classes = {
        name: f"{count} {digest.hexdigest()[:16]}"
        for name, count, digest in zip(index.classes, counts, digests, strict=True)
    }
    whole = hashlib.sha256(labels.data)
    for name, digest in zip(index.classes, digests, strict=True):
        whole.update(os.fsencode(name) + b"\0" + digest.digest())
    return DataDigest(whole.hexdigest(), len(index), classes)


def difference(one: DataDigest, other: DataDigest) -> str:
    """The first difference of two splits that differ, in words that follow `others than ...:`."""
    text = f"{one.num_images:,} images and {other.num_images:,}"
    for name in sorted({*one.classes, *other.classes}, key=os.fsencode):
        has, had = (digest.classes.get(name) for digest in (one, other))
        if has == had:
            continue
        counts = [found.partition(" ")[0] if found else "none" for found in (has, had)]
        first = f"class {name} first: {counts[0]} and {counts[1]}"
        return f"{text}; {first}" + (", with different names or sizes" * (counts[0] == counts[1]))
    return f"{text}, in a different order"


def _plain_names(index: Index) -> tuple[memoryview, Ints]:
    """The part of each file's name that counts, one behind the other, and (n,) their lengths."""
    blob = np.asarray(index.path_blob)
    begins, ends = index.path_offsets[:-1], index.path_offsets[1:]
    # A tar within a tar ends its name with an exclamation mark.
    slashes = np.flatnonzero((blob == ord("/")) | (blob == ord("!")))
    starts = _last(slashes + 1, begins, ends, begins)
    stops = _last(np.flatnonzero(blob == ord(".")), starts, ends, ends)
    # Packing numbers names that would be the same: a-1, a-2.
    hyphens = np.append(np.flatnonzero(blob == ord("-")), len(blob))
    stops = np.minimum(stops, hyphens[np.searchsorted(hyphens, starts)])
    edges = np.concatenate([[0], np.column_stack([starts, stops]).ravel(), [len(blob)]])
    kept = blob[np.repeat(np.arange(len(edges) - 1) % 2 == 1, np.diff(edges))]
    kept[kept == ord(".")] = ord("_")
    return kept.data, stops - starts


def _last(places: Ints, lower: Ints, upper: Ints, otherwise: Ints) -> Ints:
    """The last of some sorted places within each [lower, upper), else what stands in for it."""
    if not len(places):
        return otherwise
    found = places[np.maximum(np.searchsorted(places, upper) - 1, 0)]
    return np.where((found >= lower) & (found < upper), found, otherwise)
