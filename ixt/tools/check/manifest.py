"""Remember what a check found in each file, so that the next one reads only what has changed."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixt.files import published
from ixt.images.headers import ImageFormat
from ixt.images.index import join_paths
from ixt.images.index_cache import cache_folders, write_to_cache
from ixt.tools.check.facts import DIGEST_BYTES, Colour, Facts, Fault

FORMAT_VERSION = 1

# What a cut-off or foreign file makes numpy raise; such a manifest is written anew.
_UNUSABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def read_manifest(root: Path, split: str) -> dict[bytes, Facts]:
    """What earlier checks found, by path relative to the split's folder; empty if there is none."""
    for cache in cache_folders(root):
        try:
            with np.load(_file(cache, split), allow_pickle=False) as columns:
                if int(columns["format_version"]) == FORMAT_VERSION:
                    return _rows({name: columns[name] for name in columns.files})
        except _UNUSABLE:
            continue
    return {}


def write_manifest(root: Path, split: str, facts: Mapping[bytes, Facts]) -> None:
    """Keep what was found, in the first place that can be written; warn if there is none."""

    def write(cache: Path) -> None:
        path = _file(cache, split)
        with published(path, unique=True) as unfinished, unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, **_columns(facts))

    lost = "what the check found is not kept (%s), so the next one reads every file again"
    write_to_cache(root, write, lost)


def _file(cache: Path, split: str) -> Path:
    return cache / f"check-{split}.npz"


def _columns(facts: Mapping[bytes, Facts]) -> dict[str, NDArray[Any]]:
    rows = list(facts.values())
    path_blob, path_offsets = join_paths(list(facts))
    detail_blob, detail_offsets = join_paths([row.detail.encode() for row in rows])
    digests = np.frombuffer(b"".join(row.digest for row in rows), np.uint8)
    codes = [(r.fault, r.image_format, r.colour, r.orientation) for r in rows]
    return {
        "format_version": np.array(FORMAT_VERSION),
        "path_blob": path_blob,
        "path_offsets": path_offsets,
        "detail_blob": detail_blob,
        "detail_offsets": detail_offsets,
        "stamps": np.array([row.stamp for row in rows], np.int64).reshape(-1, 3),
        "digests": digests.reshape(-1, DIGEST_BYTES),
        "codes": np.array(codes, np.uint8).reshape(-1, 4),
        "sizes": np.array([(r.height, r.width) for r in rows], np.int32).reshape(-1, 2),
    }


def _rows(columns: dict[str, NDArray[Any]]) -> dict[bytes, Facts]:
    paths = _split(columns["path_blob"], columns["path_offsets"])
    details = _split(columns["detail_blob"], columns["detail_offsets"])
    digests = columns["digests"].tobytes()
    stamps, codes, sizes = (columns[name].tolist() for name in ("stamps", "codes", "sizes"))
    return {
        path: Facts(
            tuple(stamp),
            digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES],
            Fault(fault),
            detail.decode(),
            ImageFormat(image_format),
            Colour(colour),
            orientation,
            *size,
        )
        for number, (path, detail, stamp, (fault, image_format, colour, orientation), size) in (
            enumerate(zip(paths, details, stamps, codes, sizes, strict=True))
        )
    }


def _split(blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Sequence[bytes]:
    content, ends = blob.tobytes(), offsets.tolist()
    return [content[start:end] for start, end in pairwise(ends)]
