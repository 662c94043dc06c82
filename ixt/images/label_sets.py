"""Images with several labels: each set of labels in a list is a class of its own in the index.

The set of cat and dog is called `cat;dog`. So an index keeps one label per image, and what plans,
mixes or keeps the ledger by it need not know; only targets and the evaluation look into the sets.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from ixt.errors import DataError
from ixt.images.index import Index, target_labels
from ixt.images.list_rows import SEPARATOR


def has_sets(index: Index) -> bool:
    """Whether an image has several labels; only lists give them."""
    return bool(index.list_name) and any(SEPARATOR in name for name in index.classes)


def single_classes(index: Index) -> tuple[str, ...]:
    """The classes that the sets consist of, sorted; those of the index where it has no sets."""
    names = {part for name in index.classes for part in _parts(index, name)}
    return tuple(sorted(names, key=os.fsencode))


def label_sets(index: Index, class_names: Sequence[str]) -> NDArray[np.bool_]:
    """Which outputs are right for each class of an index.

    Args:
        index: the images.
        class_names: class of each model output.

    Returns:
        (S, C) for the S classes of the index and the C outputs.

    Raises:
        DataError: the data has classes that the model does not know.
    """
    outputs = {name: number for number, name in enumerate(class_names)}
    unknown = sorted(set(single_classes(index)) - outputs.keys())
    if unknown:
        raise DataError(
            f"{index.place}: {len(unknown)} of its classes are not among the model's "
            f"{len(outputs)} ({', '.join(unknown[:3])}); correct or remove these rows"
        )
    sets = np.zeros((len(index.classes), len(class_names)), np.bool_)
    for row, name in enumerate(index.classes):
        sets[row, [outputs[part] for part in _parts(index, name)]] = True
    return sets


def plan_labels(
    index: Index, class_names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """What training plans by, and what its targets come from.

    Args:
        index: the images.
        class_names: class of each model output.

    Returns:
        (n,) output of each image and None; or number of each image's set, and the sets, as
        `label_sets` gives them.

    Raises:
        DataError: the data has classes that the model does not know.
    """
    if not has_sets(index):
        return target_labels(index, class_names), None
    return index.labels.astype(np.int64), label_sets(index, class_names)


def label_columns(sets: NDArray[np.bool_], labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """(n, k) the right outputs of each image, in rising order; -1 beyond its last.

    Args:
        sets: (S, C) which outputs are right for each set.
        labels: (n,) number of each image's set.
    """
    table = np.full((len(sets), int(sets.sum(axis=1).max())), -1, np.int64)
    for row, members in enumerate(sets):
        found = np.flatnonzero(members)
        table[row, : len(found)] = found
    return table[labels]


def refuse_sets(index: Index, what: str) -> None:
    """Refuse images with several labels where one is needed.

    Raises:
        DataError: an image has several.
    """
    if has_sets(index):
        first = next(name for name in index.classes if SEPARATOR in name)
        raise DataError(
            f"{index.place}: gives several labels to an image ({first}), and {what} takes one for "
            "each; such lists are for training with optim.loss: bce, and for ixt eval"
        )


def require_map_library(index: Index) -> None:
    """Refuse to begin where images have several labels and their mAP could not be worked out.

    Raises:
        DataError: they have, and scikit-learn is missing.
    """
    if has_sets(index) and find_spec("sklearn") is None:
        raise DataError(
            f"{index.place}: images with several labels are evaluated with scikit-learn, which is "
            "not installed; pip install 'ixt[multilabel]'"
        )


def _parts(index: Index, name: str) -> list[str]:
    return name.split(SEPARATOR) if index.list_name else [name]
