"""Where a packed set is written: a folder, or a place in a bucket.

Beside each shard lies a hidden file that says what is in it, written before the shard has its name:
so the same command continues behind what is there. It is of what was to be written, not of what
lies there later: a packing that continues must not take damage for content. In a folder these files
go when the index, which holds the same, is complete.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from ixt.errors import DataError
from ixt.files import published, size_text
from ixt.images.folders import Split
from ixt.images.index_cache import save_packed_table
from ixt.images.index_table import Table, UnusableTable
from ixt.images.shards import INDEX_FOLDER, PACK_SETTINGS
from ixt.images.table_files import encode_table, read_table
from ixt.storage.objects import (
    create_object,
    list_objects,
    read_object,
    write_file,
    write_object,
)
from ixt.tools.pack.layout import PackPlan
from ixt.tools.pack.shard import Shard, shard_members

Fill = Callable[[Path], Shard]
"""Writes a shard to a local file, and says what is in it."""


class Folder:
    """A folder on this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def claimed(self, plans: list[PackPlan], settings: str) -> Iterator[None]:
        """Make it a packing with these settings, for this process alone.

        Raises:
            DataError: it holds anything else, or lacks room, or another process packs into it.
            OSError: it cannot be written.
        """
        out, file = self._root, self._root / PACK_SETTINGS
        out.mkdir(parents=True, exist_ok=True)
        if not file.exists() and any(out.iterdir()):
            raise DataError(f"{out}: is not empty and no packed set; choose a new folder")
        with open(file, "a+") as marker:
            try:
                fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"{out}: another process packs into it; wait for it") from error
            marker.seek(0)
            found = marker.read()
            # Nothing is lost with the settings of a packing that got nowhere, for lack of room.
            if found not in ("", settings) and any(out.glob("*/[!.]*.tar")):
                raise DataError(
                    f"{out}: was packed from other images or with other options (see "
                    f"{PACK_SETTINGS}); choose a new folder, or remove this one"
                )
            if found != settings:
                marker.truncate(0)
                marker.write(settings)
                marker.flush()
            self._check_space(plans)
            for plan in plans:
                _sweep(out / plan.split)
            yield

    def find(self, plan: PackPlan, number: int) -> Shard | None:
        """A complete shard of an earlier call; None where it has to be written.

        Raises:
            DataError: there is a tar that is not the planned one.
        """
        path = self._path(plan, number)
        if not path.exists():
            return None
        shard_members(path, plan, number)
        return self._known(plan, number)

    def write(self, plan: PackPlan, number: int, fill: Fill) -> Shard:
        """Write a shard; it has its name only when it is complete.

        Raises:
            OSError: the disk is full, or the place cannot be written.
        """
        with published(self._path(plan, number)) as unfinished:
            shard = fill(unfinished)
            with published(self._facts(plan, number)) as facts:
                facts.write_bytes(shard.encode())
        return shard

    def finish(self, plan: PackPlan, table: Table) -> None:
        """Write the index of a split whose shards are all there."""
        save_packed_table(self._root / plan.split / INDEX_FOLDER, table)
        for number in range(len(plan.bounds)):
            self._facts(plan, number).unlink(missing_ok=True)

    def _known(self, plan: PackPlan, number: int) -> Shard | None:
        """What is known of a shard: by its facts, or by the index of a complete packing."""
        with suppress(OSError, ValueError):
            return Shard.decode(self._facts(plan, number).read_bytes())
        table = self._index(plan.split)
        if table is None or len(table.columns["crc32"]) != len(plan.names):
            return None
        return Shard.of_table(table, number, slice(*plan.bounds[number]))

    @lru_cache(2)  # noqa: B019  # verifying takes a second for many images
    def _index(self, split: Split) -> Table | None:
        try:
            return read_table(self._root / split / INDEX_FOLDER)
        except UnusableTable:
            return None

    def _path(self, plan: PackPlan, number: int) -> Path:
        return self._root / plan.split / plan.shard_name(number)

    def _facts(self, plan: PackPlan, number: int) -> Path:
        return self._root / _facts_name(plan, number)

    def _check_space(self, plans: list[PackPlan]) -> None:
        missing = 0
        for plan in plans:
            (self._root / plan.split).mkdir(exist_ok=True)
            for number, (start, end) in enumerate(plan.bounds):
                if not self._path(plan, number).exists():
                    missing += int(plan.expected_bytes[start:end].sum())
        free = shutil.disk_usage(self._root).free
        if missing > free:
            raise DataError(
                f"{self._root}: needs about {size_text(missing)} and the disk has "
                f"{size_text(free)} left; make room, choose another disk, or make images smaller "
                "with --max-side"
            )


class Bucket:
    """A place in a bucket: shards go through a local file, the index is written last.

    Two machines that pack the same images write the same bytes, so they cannot harm each other;
    with other options, or other images, only the first of them gets the place.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._there = list_objects(url)

    @contextmanager
    def claimed(self, plans: list[PackPlan], settings: str) -> Iterator[None]:
        """Make it a packing with these settings, before any image is read.

        Raises:
            DataError: it holds anything else.
        """
        content, place = settings.encode(), f"{self._url}/{PACK_SETTINGS}"
        if self._there and PACK_SETTINGS not in self._there:
            raise DataError(f"{self._url}: is not empty and no packed set; choose a new place")
        if not create_object(place, content) and read_object(place) != content:
            raise DataError(
                f"{self._url}: was packed from other images or with other options (see "
                f"{PACK_SETTINGS}); choose a new place, or delete this one"
            )
        yield

    def find(self, plan: PackPlan, number: int) -> Shard | None:
        """A complete shard of an earlier call; None where it has to be written."""
        tar = self._there.get(f"{plan.split}/{plan.shard_name(number)}")
        name = _facts_name(plan, number)
        if tar is None or name not in self._there:
            return None
        shard = Shard.decode(read_object(f"{self._url}/{name}"))
        return shard if shard.stamp.size == tar.size else None

    def write(self, plan: PackPlan, number: int, fill: Fill) -> Shard:
        """Write a shard; it lies in the folder for temporary files until it is uploaded."""
        with tempfile.TemporaryDirectory(prefix="ixt-pack-") as staging:
            path = Path(staging) / plan.shard_name(number)
            shard = fill(path)
            write_file(path, f"{self._url}/{plan.split}/{path.name}")
        write_object(f"{self._url}/{_facts_name(plan, number)}", shard.encode())
        return shard

    def finish(self, plan: PackPlan, table: Table) -> None:
        """Write the index of a split, its meta.json last."""
        for name, content in encode_table(table).items():
            write_object(f"{self._url}/{plan.split}/{INDEX_FOLDER}/{name}", content)


def _facts_name(plan: PackPlan, number: int) -> str:
    return f"{plan.split}/.{plan.shard_name(number)}.json"


def _sweep(folder: Path) -> None:
    """Remove what a packing that was killed had begun to write."""
    for left in folder.glob(".tmp-*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


Place = Folder | Bucket
"""Where the shards of a packing and their index are written."""
