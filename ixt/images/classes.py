"""Class names: which model output belongs to which class folder, and what a WordNet id means.

Also the classes of the 50,000 ILSVRC2012 validation images, whose files are only numbered.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from ixt.errors import DataError

IMAGENET_CLASSES = 1000
VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.(?:JPEG|jpeg|jpg)")


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


@cache
def validation_labels() -> tuple[str, ...]:
    """WordNet ids of the 50,000 validation images, in the order of their numbers.

    Entry 0 is the class of ILSVRC2012_val_00000001.JPEG (n01751748, a sea snake); each of the
    1,000 classes comes 50 times.

    Source: validation_labels.txt of TensorFlow Datasets 4.9.10 (Apache-2.0), the same 50,000 as
        in valprep.sh of github.com/soumith/imagenetloader.torch; both restate the challenge's
        development kit. Stored as places in the sorted WordNet ids.
    """
    synsets = imagenet_synsets()
    with (files("ixt.images") / "validation_labels.npz").open("rb") as file, np.load(file) as table:
        return tuple(synsets[number] for number in table["labels"])


def validation_class(name: str, labels: tuple[str, ...]) -> str | None:
    """WordNet id of a validation image by its file name; None if it is not one of `labels`."""
    match = VALIDATION_NAME.fullmatch(name)
    number = int(match[1]) if match else 0
    return labels[number - 1] if 0 < number <= len(labels) else None


def class_label(name: str) -> str:
    """Human words for a WordNet id, such as `tench, Tinca tinca`; any other name as it is.

    Source: timm's data file imagenet_synset_to_lemma.txt.
    """
    return _lemmas().get(name, name)


def output_classes(
    folder_names: Sequence[str], num_classes: int | None, remedy: str | None = None
) -> tuple[str, ...]:
    """Name the class of each model output.

    The outputs are the sorted folder names, as in torchvision's ImageFolder. A model of 1000
    outputs also fits folders that are only some of ImageNet-1k's: they keep their class numbers.

    Args:
        folder_names: class folders of the data.
        num_classes: outputs of the model; None for as many as there are folders.
        remedy: what else helps where they do not fit; a recipe's setting if not given.

    Raises:
        DataError: the folders do not fit the number of outputs.
    """
    if num_classes is None or num_classes == len(folder_names):
        return tuple(sorted(folder_names, key=os.fsencode))
    unknown = sorted(set(folder_names) - set(imagenet_synsets()))
    if num_classes == IMAGENET_CLASSES and not unknown:
        return imagenet_synsets()
    reason = f" ({unknown[0]} is not one of ImageNet-1k)" if num_classes == IMAGENET_CLASSES else ""
    remedy = remedy or f"set model.num_classes to {len(folder_names)}"
    raise DataError(
        f"the data has {len(folder_names)} classes{reason}, but the model has {num_classes} "
        f"outputs; {remedy} or use the data that the model was trained on"
    )


@cache
def _lemmas() -> dict[str, str]:
    rows = _timm_info("imagenet_synset_to_lemma.txt").splitlines()
    return dict(row.split("\t", maxsplit=1) for row in rows)


def _timm_info(name: str) -> str:
    """Text of one of timm's data files, without importing timm and with it torch."""
    spec = find_spec("timm")
    assert spec is not None and spec.origin is not None, "timm is a dependency of ixt"
    return (Path(spec.origin).parent / "data" / "_info" / name).read_text(encoding="utf-8")
