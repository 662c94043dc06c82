"""What cannot be true of a split's table, whatever wrote it: all values are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixt.images.headers import ImageFormat

Columns = Mapping[str, NDArray[Any]]

DTYPES: dict[str, type[np.generic]] = {
    "labels": np.int32,
    "sizes": np.int32,
    "num_bytes": np.int64,
    "formats": np.uint8,
    "path_blob": np.uint8,
    "path_offsets": np.int64,
    "shard_numbers": np.int32,
    "shard_offsets": np.int64,
    "checksums": np.uint32,
}
"""The columns of a table, see `ixt.images.index.Index`."""


def refuse_impossible(
    columns: Columns, classes: Sequence[str], shard_sizes: Sequence[int] | None
) -> None:
    """Refuse a table that would read other bytes than an image's, or give it no class.

    Args:
        columns: by name, as in `DTYPES`.
        classes: names of the classes.
        shard_sizes: bytes of each tar; None where each image is a file.

    Raises:
        ValueError: it says in a few words what is wrong.
    """
    _check_shapes(columns, in_shards=shard_sizes is not None)
    problems = [*_column_problems(columns, classes)]
    if shard_sizes is not None and not problems:
        problems = [*_shard_problems(columns, np.asarray(shard_sizes, np.int64))]
    if problems:
        raise ValueError(problems[0])


def _check_shapes(columns: Columns, in_shards: bool) -> None:
    count = len(columns["labels"])
    shapes = dict.fromkeys(DTYPES, (count,)) | {
        "sizes": (count, 2),
        "path_blob": columns["path_blob"].shape[:1],
        "path_offsets": (count + 1,),
        "shard_numbers": (count * in_shards,),
        "shard_offsets": (count * in_shards,),
    }
    if not len(columns["checksums"]):
        shapes["checksums"] = (0,)
    for name, dtype in DTYPES.items():
        if columns[name].dtype != dtype or columns[name].shape != shapes[name]:
            raise ValueError(f"{name} has another type or length")


def _column_problems(columns: Columns, classes: Sequence[str]) -> Iterator[str]:
    if len(set(classes)) != len(classes) or not all(isinstance(name, str) for name in classes):
        yield "a class name is given twice, or is no text"
    labels, formats = columns["labels"], columns["formats"]
    # Sorted by class, so the ends say it all.
    if len(labels) and (labels[0] < 0 or labels[-1] >= len(classes) or (np.diff(labels) < 0).any()):
        yield f"labels are not sorted, or outside of 0 to {len(classes) - 1}"
    if not np.isin(formats, [int(kind) for kind in ImageFormat]).all():
        yield "formats holds an unknown number"
    if (columns["sizes"][formats != ImageFormat.UNREADABLE] <= 0).any():
        yield "sizes holds a side of no pixels"
    if (columns["num_bytes"] < 0).any():
        yield "num_bytes holds a negative number"
    offsets = columns["path_offsets"]
    if offsets[0] != 0 or offsets[-1] != len(columns["path_blob"]) or (np.diff(offsets) <= 0).any():
        yield "path_offsets do not cut path_blob into names"


def _shard_problems(columns: Columns, shard_sizes: NDArray[np.int64]) -> Iterator[str]:
    numbers, starts = columns["shard_numbers"], columns["shard_offsets"]
    if (numbers < 0).any() or (numbers >= len(shard_sizes)).any():
        yield f"shard_numbers are outside of 0 to {len(shard_sizes) - 1}"
        return
    # Compared without a sum that could overflow.
    if (starts < 0).any() or (columns["num_bytes"] > shard_sizes[numbers] - starts).any():
        yield "an image does not lie inside its tar"
        return
    order = np.lexsort((starts, numbers))
    numbers, starts = numbers[order], starts[order]
    ends = starts + columns["num_bytes"][order]
    if ((numbers[1:] == numbers[:-1]) & (starts[1:] < ends[:-1])).any():
        yield "two images overlap in their tar"
