"""The images of shards as columns: as objects, a million of them would take a gigabyte."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ixt.images.folders import Listing
from ixt.images.headers import Head

K = TypeVar("K")


class ShardImage(NamedTuple, Generic[K]):
    """An image in a shard."""

    kind: K
    """What its class follows from."""
    name: bytes
    """Its name within the shard."""
    offset: int
    """Its first byte there."""
    size: int
    """Its length in bytes."""
    head: Head


@dataclass(frozen=True, eq=False)
class ShardRows(Generic[K]):
    """The images of a shard, or of a tar within one."""

    kinds: list[K]
    """What classes follow from, in the order of the first images."""
    numbers: NDArray[np.int32]
    """(n,) place of the image's kind in `kinds`."""
    names: list[bytes]
    """(n,) as of `ShardImage`."""
    places: NDArray[np.int64]
    """(n, 2) offset and size."""
    heads: NDArray[np.int32]
    """(n, 3) format, height and width."""


def to_rows(
    images: Iterable[ShardImage[K]], same: Callable[[K], Hashable] = lambda kind: kind
) -> ShardRows[K]:
    """The columns of some images.

    Args:
        images: in any order, which is kept.
        same: equal for kinds of which the first can stand for all.
    """
    kinds: dict[Any, tuple[int, K]] = {}
    numbers, names, places, heads = [], [], [], []
    for kind, name, offset, size, head in images:
        numbers.append(kinds.setdefault(same(kind), (len(kinds), kind))[0])
        names.append(name)
        places.append((offset, size))
        heads.append(head)
    return ShardRows(
        [kind for _, kind in kinds.values()],
        np.array(numbers, np.int32),
        names,
        np.array(places, np.int64).reshape(-1, 2),
        np.array(heads, np.int32).reshape(-1, 3),
    )


def to_listing(
    parts: Sequence[ShardRows[Any]],
    shards: Sequence[int],
    classes: Sequence[Sequence[bytes]],
    key: Callable[[bytes], bytes] | None = None,
) -> Listing:
    """The listing of all images, ordered by class.

    Args:
        parts: the images.
        shards: the number of each part's shard.
        classes: the class of each of a part's kinds.
        key: of a name, by which images of a class are ordered, and then by where they lie; None to
            leave them in the order given.
    """
    found = sorted(set(chain.from_iterable(classes)))
    ranks = {name: rank for rank, name in enumerate(found)}
    labels = np.concatenate(
        [
            np.array([ranks[name] for name in own], np.int32)[part.numbers]
            for part, own in zip(parts, classes, strict=True)
        ]
    )
    numbers = np.repeat(np.array(shards, np.int32), [len(part.names) for part in parts])
    names = list(chain.from_iterable(part.names for part in parts))
    places = np.concatenate([part.places for part in parts])
    counts = np.bincount(labels, minlength=len(found)).tolist()
    if key is None:
        order = np.argsort(labels, kind="stable")
    else:
        order = np.lexsort((places[:, 1], places[:, 0], numbers, labels))
        order = _order_classes(order, counts, [key(name) for name in names])
    return Listing(
        classes=tuple(os.fsdecode(name) for name in found),
        counts=tuple(counts),
        names=[names[row] for row in order],
        shards=numbers[order],
        offsets=places[order, 0],
        sizes=places[order, 1],
        heads=np.concatenate([part.heads for part in parts])[order],
    )


def _order_classes(
    order: NDArray[np.intp], counts: Sequence[int], keys: Sequence[bytes]
) -> NDArray[np.intp]:
    """Order the images of each class by their keys; equal ones keep their order."""
    ends = np.cumsum([0, *counts])
    for start, end in pairwise(ends.tolist()):
        order[start:end] = sorted(order[start:end].tolist(), key=keys.__getitem__)
    return order
