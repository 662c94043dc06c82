"""The CRC-32 of each image of a split, kept beside its shards until the index holds them.

They are of what was to be written, not of what lies on the disk later: a packing that continues
must not take damage for content.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ixt.files import published
from ixt.images.index_table import UnusableTable
from ixt.images.shards import INDEX_FOLDER
from ixt.images.table_files import read_table
from ixt.tools.pack.layout import PackPlan


class Checksums:
    """Those known of a split: from its complete index, or from files of a packing cut off."""

    def __init__(self, folder: Path, plan: PackPlan) -> None:
        self._folder = folder
        self._plan = plan
        self._known = [self._read(number) for number in range(len(plan.bounds))]
        try:
            packed = read_table(folder / INDEX_FOLDER).columns["crc32"]
        except UnusableTable:
            return
        if len(packed) == len(plan.names):
            self._known = [packed[start:end] for start, end in plan.bounds]

    def are_known(self, number: int) -> bool:
        """Whether those of a shard's images are."""
        return self._known[number] is not None

    def keep(self, number: int, sums: list[int]) -> None:
        """Write those of a shard's images to a file beside the shards.

        Raises:
            OSError: the disk is full, or the place cannot be written.
        """
        self._known[number] = known = np.array(sums, np.uint32)
        with published(self._file(number)) as unfinished:
            unfinished.write_bytes(known.tobytes())

    def all(self) -> NDArray[np.uint32]:
        """(n,) those of the split's images; all must be known."""
        return np.concatenate([sums for sums in self._known if sums is not None])

    def remove_files(self) -> None:
        """Remove the files beside the shards: the index holds everything."""
        for number in range(len(self._known)):
            self._file(number).unlink(missing_ok=True)

    def _file(self, number: int) -> Path:
        return self._folder / f".{self._plan.shard_name(number)}.crc32"

    def _read(self, number: int) -> NDArray[np.uint32] | None:
        start, end = self._plan.bounds[number]
        try:
            sums = np.frombuffer(self._file(number).read_bytes(), np.uint32)
        except (OSError, ValueError):
            return None
        # A flipped bit in it makes an image look damaged; it never hides damage.
        return sums if len(sums) == end - start else None
