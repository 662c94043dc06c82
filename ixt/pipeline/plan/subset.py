"""Some of a split: chosen classes, and a few images of each; a pure function of its arguments."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from ixt.errors import DataError
from ixt.images.folders import Split
from ixt.images.hold_out import load_split
from ixt.images.index import Index, take_rows
from ixt.pipeline.plan.hashing import Draw, hash64
from ixt.recipe import Recipe


def recipe_index(recipe: Recipe, split: Split, root: str | Path | None = None) -> Index:
    """The images of a split that a recipe is about.

    `root` takes the place of data.root, which is set otherwise.

    Raises:
        DataError: there are none, or the data section does not fit them.
    """
    root = root if root is not None else recipe.data.root
    assert root is not None
    return take_subset(load_split(root, split, recipe.data.val_fraction), recipe, split)


def take_subset(index: Index, recipe: Recipe, split: Split) -> Index:
    """What `data.classes` and `data.shots` leave of a split; the index itself without them.

    Shots are the images of a class whose hash of (run.seed, class name, place in the class) is
    smallest: so 5 shots are among the 10 of the same seed, and do not depend on other classes.

    Shots act on train only.

    Raises:
        DataError: a class is not there, or has fewer images than shots.
    """
    if recipe.data.classes is not None:
        index = _of_classes(index, recipe.data.classes)
    if recipe.data.shots is not None and split == "train":
        index = _few_shots(index, recipe.data.shots, recipe.run.seed)
    return index


def _of_classes(index: Index, names: tuple[str, ...]) -> Index:
    unknown = sorted(set(names) - set(index.classes))
    if unknown or not names:
        near = difflib.get_close_matches(unknown[0] if unknown else "", index.classes, n=3)
        hint = (
            f"similar names: {', '.join(near)}" if near else f"it has {len(index.classes)} classes"
        )
        raise DataError(
            f"data.classes: {unknown[0] if unknown else 'empty list'}: is not a class folder of "
            f"{index.folder}; {hint}"
        )
    kept = [number for number, name in enumerate(index.classes) if name in set(names)]
    rows = take_rows(index, np.flatnonzero(np.isin(index.labels, kept)))
    return replace(
        rows,
        classes=tuple(index.classes[number] for number in kept),
        labels=np.searchsorted(kept, rows.labels).astype(np.int32),
    )


def _few_shots(index: Index, shots: int, seed: int) -> Index:
    counts = np.bincount(index.labels, minlength=len(index.classes))
    poorest = int(counts.argmin())
    if counts[poorest] < shots:
        raise DataError(
            f"data.shots: is {shots}; {index.folder}/{index.classes[poorest]} contains "
            f"{counts[poorest]} images, so give at most that number"
        )
    # Rows are sorted by class: a row's place in its class is its distance from the first one.
    places = np.arange(len(index)) - (np.cumsum(counts) - counts)[index.labels]
    keys = np.array([_name_key(name) for name in index.classes], np.int64)[index.labels]
    order = np.lexsort((hash64(seed, keys, places, Draw.SHOTS), index.labels))
    ranks = np.empty(len(index), np.int64)
    ranks[order] = places
    return take_rows(index, np.flatnonzero(ranks < shots))


def _name_key(name: str) -> int:
    """63 bits of a class name, the same on every machine."""
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return int.from_bytes(digest[:8], "little") >> 1
