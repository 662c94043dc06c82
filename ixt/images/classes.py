"""Class names: which model output belongs to which class folder, and what a WordNet id means."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ixt.errors import DataError
from ixt.images.index import Index

IMAGENET_CLASSES = 1000


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """The 1000 WordNet ids of ImageNet-1k in class order (n01440764 is output 0).

    Source: timm's data file imagenet_synsets.txt.
    """
    return tuple(_timm_info("imagenet_synsets.txt").split())


@cache
def subset_synsets(name: Literal["a", "r"]) -> frozenset[str]:
    """The 200 WordNet ids of ImageNet-A or ImageNet-R, all of them in ImageNet-1k.

    Source: timm's data files imagenet_a_synsets.txt and imagenet_r_synsets.txt.
    """
    return frozenset(_timm_info(f"imagenet_{name}_synsets.txt").split())


@cache
def real_labels() -> tuple[tuple[int, ...], ...]:
    """ImageNet ReaL: outputs that are right for each of the 50,000 validation images, or none.

    Source: Beyer et al. 2020, "Are we done with ImageNet?"; timm's data file
        imagenet_real_labels.json.
    """
    rows = json.loads(_timm_info("imagenet_real_labels.json"))
    return tuple(tuple(row) for row in rows)


def class_label(name: str) -> str:
    """Human words for a WordNet id, such as `tench, Tinca tinca`; any other name as it is.

    Source: timm's data file imagenet_synset_to_lemma.txt.
    """
    return _lemmas().get(name, name)


def output_classes(folder_names: Sequence[str], num_classes: int | None) -> tuple[str, ...]:
    """Name the class of each model output.

    The outputs are the sorted folder names, as in torchvision's ImageFolder. A model of 1000
    outputs also fits folders that are only some of ImageNet-1k's: they keep their class numbers.

    Args:
        folder_names: class folders of the data.
        num_classes: outputs of the model; None for as many as there are folders.

    Raises:
        DataError: the folders do not fit the number of outputs.
    """
    if num_classes is None or num_classes == len(folder_names):
        return tuple(sorted(folder_names, key=os.fsencode))
    unknown = sorted(set(folder_names) - set(imagenet_synsets()))
    if num_classes == IMAGENET_CLASSES and not unknown:
        return imagenet_synsets()
    reason = f" ({unknown[0]} is not one of ImageNet-1k)" if num_classes == IMAGENET_CLASSES else ""
    raise DataError(
        f"the data holds {len(folder_names)} classes{reason}, the model has {num_classes} outputs; "
        f"set model.num_classes to {len(folder_names)} or give the data that the model is for"
    )


def target_labels(index: Index, class_names: Sequence[str]) -> NDArray[np.int64]:
    """Output number of each sample.

    Args:
        index: the images.
        class_names: class of each model output, as `output_classes` gives it.

    Returns:
        (n,) int64, in [0, len(class_names)).

    Raises:
        DataError: the data has classes that the model does not know.
    """
    outputs = {name: number for number, name in enumerate(class_names)}
    unknown = [name for name in index.classes if name not in outputs]
    if unknown:
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise DataError(
            f"{index.folder}: {len(unknown)} of {len(index.classes)} class folders are not among "
            f"the model's {len(outputs)} classes ({shown}); rename or remove them"
        )
    table = np.array([outputs[name] for name in index.classes], np.int64)
    return table[index.labels]


@cache
def _lemmas() -> dict[str, str]:
    rows = _timm_info("imagenet_synset_to_lemma.txt").splitlines()
    return dict(row.split("\t", maxsplit=1) for row in rows)


def _timm_info(name: str) -> str:
    """Text of one of timm's data files, without importing timm and with it torch."""
    spec = find_spec("timm")
    assert spec is not None and spec.origin is not None, "timm is a dependency of ixt"
    return (Path(spec.origin).parent / "data" / "_info" / name).read_text(encoding="utf-8")
