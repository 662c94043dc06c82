"""Whether a set that `ixt data pack` wrote is whole: its index, its tars, and what lies where."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from ixt.errors import DataError
from ixt.files import read_json
from ixt.images.folders import Split
from ixt.images.image import DamagedImage, read_image
from ixt.images.index import Index, load_index
from ixt.images.index_table import Table, UnusableTable
from ixt.images.shards import INDEX_FOLDER, find_layout, unchanged
from ixt.images.table_files import read_table
from ixt.images.tars import list_members
from ixt.runs.verify.finding import Finding, checked
from ixt.tools.pack.layout import PackOptions, plan_pack

SETTINGS = "pack.json"
_NUM_THREADS = 8
_AT_ONCE = 4096


def verify_packed(root: Path, data: str | None) -> list[Finding]:
    """Check a packed set; see `verify`."""
    splits = _packed_splits(root)
    findings = [checked(split, partial(_split, root, split)) for split in splits]
    if data is not None:
        findings += [
            checked(f"{split} of {data}", partial(_source, root, split, data)) for split in splits
        ]
    return findings


def _packed_splits(root: Path) -> tuple[Split, ...]:
    """The splits that were packed; both where the settings of the packing do not say."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        if set(read_json(root / SETTINGS)["images"]) == {"train"}:
            return ("train",)
    return ("train", "val")


def _split(root: Path, split: Split) -> str:
    layout = find_layout(root, split)
    try:
        table = read_table(layout.folder / INDEX_FOLDER, packed=True)
    except UnusableTable as error:
        raise DataError(f"{layout.folder / INDEX_FOLDER}: {error}") from error
    found = set(layout.tars)
    for shard in table.shards:
        path = layout.folder / shard.name
        if shard.name not in found:
            raise DataError(f"{path}: is missing")
        if not unchanged(layout.folder, (shard,), by_length=table.has_checksums):
            raise DataError(f"{path}: is not the tar that was indexed; copy or pack it again")
    others = sorted(found - {shard.name for shard in table.shards})
    if others:
        raise DataError(f"{layout.folder / others[0]}: is not in the index; move it away")
    index = load_index(root, split)
    if index.has_checksums:
        _check_images(index)
        verdict = "their bytes as their checksums say"
    else:
        _compare_members(index, layout.folder, table)
        verdict = "at the places in the index, which holds no checksums of them"
    return f"{len(index):,} images in {len(table.shards)} tars, {verdict}"


def _check_images(index: Index) -> None:
    """Read every image, which compares it with its checksum.

    Raises:
        DataError: one is not as it was packed.
    """
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for start in range(0, len(index), _AT_ONCE):
            sources = index.ranges(np.arange(start, min(start + _AT_ONCE, len(index))))
            try:
                deque(pool.map(read_image, sources), maxlen=0)
            except DamagedImage as error:
                raise DataError(str(error)) from error


def _compare_members(index: Index, folder: Path, table: Table) -> None:
    """Look whether each image lies where the index says."""
    columns = table.columns
    for number, shard in enumerate(table.shards):
        rows = (columns["shard_numbers"] == number).nonzero()[0]
        listed = {
            m.offset: (os.fsdecode(m.name), m.size) for m in list_members(folder / shard.name)
        }
        for row, source in zip(rows.tolist(), index.ranges(rows), strict=True):
            expected = (source.member, int(columns["num_bytes"][row]))
            if listed.get(int(columns["shard_offsets"][row])) != expected:
                raise DataError(f"{source.name}: does not lie where the index says; pack again")


def _source(root: Path, split: Split, data: str) -> str:
    """Whether a packed split was made of the images of a folder."""
    settings = read_json(root / SETTINGS)
    try:
        options = PackOptions(settings["max_side"], settings["quality"], settings["shard_bytes"])
        packed = settings["images"][split]
    except (KeyError, TypeError):
        raise DataError(f"{root / SETTINGS}: is not what ixt data pack writes") from None
    plan = plan_pack(load_index(data, split), split, options)
    if plan.digest() != packed:
        raise DataError(f"{root}: was packed from other images, or their names or order changed")
    return f"{len(plan.names):,} images, those that were packed"
