"""Classes of the validation images: of the development kit, of Kaggle's table, or as shipped."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import tarfile
import zlib
from pathlib import Path
from typing import Any

from ixt.errors import DataError, first_line
from ixt.images.classes import VALIDATION_NAME, validation_labels
from ixt.tools.prepare.sources import compare_sums, kaggle_folder
from ixt.tools.prepare.task import ArchiveSet, Options, Sources

_SYNSET = re.compile(r"n\d{8}")
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_META = "data/meta.mat"


def find_labels(sources: Sources, options: Options, published: ArchiveSet) -> tuple[str, ...]:
    """Classes of the validation images: the kit's, Kaggle's, or the shipped ones.

    Raises:
        DataError: the kit or table given is not what it should be.
    """
    if sources.devkit is not None:
        if options.check_sums and sources.devkit.is_file():
            with sources.devkit.open("rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
            compare_sums(sources.devkit, published.devkit, found, "")
        return read_devkit(sources.devkit)
    if sources.kaggle is not None:
        base = kaggle_folder(sources.kaggle)
        for folder in (base, *base.parents[:3]):
            if (folder / "LOC_val_solution.csv").is_file():
                return read_solution(folder / "LOC_val_solution.csv")
    return validation_labels()


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
            f"({type(error).__name__}: {first_line(error)}); give ILSVRC2012_devkit_t12.tar.gz"
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
        reason = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise DataError(
            f"{path}: cannot be read as the development kit ({reason}); "
            "give ILSVRC2012_devkit_t12.tar.gz"
        ) from error
