"""What `ixt data pack` is to write: member names, image sizes, and which images share a shard.

All of it follows from the index and the options, so a packing that was cut off continues alike.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ixt.images.folders import Split, is_image
from ixt.images.headers import ImageFormat
from ixt.images.hold_out import portable_names
from ixt.images.index import Index
from ixt.images.label_sets import refuse_sets

_BLOCK = 512
# A header for the image, and header and content for its label.
_OVERHEAD = 3 * _BLOCK


@dataclass(frozen=True)
class PackOptions:
    """How images are packed."""

    max_side: int | None = None
    """Images whose longer side has more pixels are made smaller to it; None keeps all as they are.
    """
    quality: int = 90
    """JPEG quality of images that were made smaller, 1 to 95."""
    shard_bytes: int = 2**30
    """A shard gets no further image once it is expected to hold more bytes."""


@dataclass(frozen=True)
class PackPlan:
    """The shards of one split."""

    split: Split
    index: Index
    names: list[str]
    """(n) member of each image: CLASS/NAME.SUFFIX, without a further dot in the name."""
    sizes: NDArray[np.int32]
    """(n, 2) height and width of each packed image."""
    shrinks: NDArray[np.bool_]
    """(n,) whether the image is made smaller, and so encoded anew."""
    expected_bytes: NDArray[np.int64]
    """(n,) what each image will take in its shard; a guess where it is encoded anew."""
    bounds: list[tuple[int, int]]
    """First sample of each shard, and the one behind its last."""

    def shard_name(self, number: int) -> str:
        """File name of a shard."""
        return f"{self.split}-{number:05d}.tar"

    @property
    def formats(self) -> NDArray[np.uint8]:
        """(n,) ImageFormat of each packed image."""
        return np.where(self.shrinks, ImageFormat.JPEG, self.index.formats).astype(np.uint8)

    def digest(self) -> str:
        """Changes with the images to pack, their order, names and classes, and the shards."""
        digest = hashlib.sha256()
        for text in (*self.index.classes, *self.names):
            digest.update(os.fsencode(text) + b"\0")
        for column in (self.index.labels, self.index.num_bytes, self.index.sizes, self.sizes):
            digest.update(np.ascontiguousarray(column).data)
        digest.update(np.array(self.bounds, np.int64).data)
        return digest.hexdigest()


def plan_pack(index: Index, split: Split, options: PackOptions) -> PackPlan:
    """Plan the shards of a split; the samples keep their order."""
    refuse_sets(index, "ixt data pack")
    sizes, shrinks = _shrink(index.sizes, options.max_side)
    before = np.maximum(index.sizes.astype(np.float64).prod(axis=1), 1)
    ratio = np.where(shrinks, sizes.astype(np.float64).prod(axis=1) / before, 1.0)
    content = np.ceil(index.num_bytes * ratio).astype(np.int64)
    expected = -(-content // _BLOCK) * _BLOCK + _OVERHEAD
    return PackPlan(
        split=split,
        index=index,
        names=_member_names(index, shrinks),
        sizes=sizes,
        shrinks=shrinks,
        expected_bytes=expected,
        bounds=_cut(expected, options.shard_bytes),
    )


def _shrink(
    sizes: NDArray[np.int32], max_side: int | None
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Sizes with the longer side at most max_side, and where that changes one."""
    longer = sizes.max(axis=1)
    shrinks = longer > (max_side or np.iinfo(np.int32).max)
    scaled = sizes.astype(np.int64) * (max_side or 1) * 2 // np.maximum(longer, 1)[:, None]
    rounded = np.maximum((scaled + 1) // 2, 1)
    return np.where(shrinks[:, None], rounded, sizes).astype(np.int32), shrinks


def _cut(expected: NDArray[np.int64], shard_bytes: int) -> list[tuple[int, int]]:
    bounds, start, total = [], 0, 0
    for row, size in enumerate(expected.tolist()):
        if total and total + size > shard_bytes:
            bounds.append((start, row))
            start, total = row, 0
        total += size
    return [*bounds, (start, len(expected))]


def _member_names(index: Index, shrinks: NDArray[np.bool_]) -> list[str]:
    """Name the members so that WebDataset finds image and label of a sample under one key.

    Its key of a member ends at the first dot of the file's name, so the name gets no other, and
    two images that would have the same key are distinguished by a number.
    """
    names, taken = [], set()
    sources = index.ranges(range(len(index)))
    for source, plain, shrunk in zip(sources, portable_names(index), shrinks, strict=True):
        # Listed files may have any name, but an image in a tar is known by its suffix.
        suffix = source.name.rpartition(".")[2] if is_image(os.fsencode(source.name)) else "jpeg"
        key = plain
        number = 0
        while key in taken:
            number += 1
            key = f"{plain}-{number}"
        taken.add(key)
        names.append(f"{key}.{'jpg' if shrunk else suffix}")
    return names
