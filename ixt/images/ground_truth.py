"""Classes of the 50,000 ILSVRC2012 validation images, whose files are only numbered.

The shipped table, the development kit of the challenge, or Kaggle's solution file.
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
import zlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ixt.errors import DataError
from ixt.images.classes import imagenet_synsets

VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.(?:JPEG|jpeg|jpg)")

_SYNSET = re.compile(r"n\d{8}")
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_META = "data/meta.mat"


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


def read_devkit(path: Path) -> tuple[str, ...]:
    """WordNet ids of the validation images from the development kit of tasks 1 and 2.

    Args:
        path: ILSVRC2012_devkit_t12.tar.gz, or the folder it unpacks to.

    Raises:
        DataError: path is no such kit.

    Source: readme.txt of the kit: the ground truth holds one ILSVRC2012_ID per image, and the
        leaves of the synsets in meta.mat name the WordNet id of each.
    """
    from scipy.io import loadmat

    truth, meta = _devkit_files(path)
    try:
        synsets: Any = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        synset_of = {
            int(row["ILSVRC2012_ID"]): str(row["WNID"])
            for row in synsets
            if int(row["num_children"]) == 0
        }
        return tuple(synset_of[int(line)] for line in truth.decode().split())
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise DataError(
            f"{path}: its {_TRUTH} and {_META} cannot be understood "
            f"({type(error).__name__}: {error}); give ILSVRC2012_devkit_t12.tar.gz"
        ) from error


def read_solution(path: Path) -> tuple[str, ...]:
    """WordNet ids of the validation images from Kaggle's LOC_val_solution.csv.

    Raises:
        DataError: the file is not that table, or leaves out a number.
    """
    found: dict[int, str] = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            image, synset = row.get("ImageId") or "", (row.get("PredictionString") or "")[:9]
            match = VALIDATION_NAME.fullmatch(f"{image}.JPEG")
            if match is None or not _SYNSET.fullmatch(synset):
                raise DataError(
                    f"{path}: row {image!r}, {synset!r} is no validation image and its class; "
                    "give the LOC_val_solution.csv that belongs to the images"
                )
            found[int(match[1])] = synset
    missing = next((n for n in range(1, len(found) + 1) if n not in found), None)
    if not found or missing is not None:
        raise DataError(
            f"{path}: names {len(found):,} images, but not number {missing or 1}; it is cut off"
        )
    return tuple(found[number] for number in sorted(found))


def _devkit_files(path: Path) -> tuple[bytes, bytes]:
    try:
        if path.is_dir():
            return (path / _TRUTH).read_bytes(), (path / _META).read_bytes()
        with tarfile.open(path) as tar:
            held = {"/".join(Path(info.name).parts[-2:]): info for info in tar if info.isreg()}
            contents = [tar.extractfile(held[name]) for name in (_TRUTH, _META)]
            truth, meta = (content.read() if content else b"" for content in contents)
            return truth, meta
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{path}: cannot be read as the development kit ({reason}); "
            "give ILSVRC2012_devkit_t12.tar.gz"
        ) from error
