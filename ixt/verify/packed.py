"""Whether a set that `ixt data pack` wrote is whole: its index, its tars, and what lies where."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from ixt.errors import DataError
from ixt.files import read_json
from ixt.images.folders import Split
from ixt.images.index import Index, load_index
from ixt.images.index_cache import Table, read_table
from ixt.images.shards import INDEX_FOLDER, find_layout, unchanged
from ixt.images.tars import list_members
from ixt.tools.pack.layout import PackOptions, plan_pack
from ixt.verify.finding import Finding, checked

SETTINGS = "pack.json"
_SPLITS: tuple[Split, ...] = ("train", "val")


def verify_packed(root: Path, data: str | None) -> list[Finding]:
    """Check a packed set; see `verify`. Its pixels are the business of `ixt data check`."""
    findings = [checked(split, partial(_split, root, split)) for split in _SPLITS]
    if data is not None:
        findings += [
            checked(f"{split} of {data}", partial(_source, root, split, data)) for split in _SPLITS
        ]
    return findings


def _split(root: Path, split: Split) -> str:
    layout = find_layout(root, split)
    table = read_table(layout.folder / INDEX_FOLDER)
    if table is None:
        raise DataError(f"{layout.folder / INDEX_FOLDER}: is damaged or of another release")
    found = set(layout.tars)
    for shard in table.shards:
        path = layout.folder / shard.name
        if shard.name not in found:
            raise DataError(f"{path}: is missing")
        if not unchanged(layout.folder, (shard,)):
            raise DataError(f"{path}: is not the tar that was indexed; copy or pack it again")
    others = sorted(found - {shard.name for shard in table.shards})
    if others:
        raise DataError(f"{layout.folder / others[0]}: is not in the index; move it away")
    _compare_members(load_index(root, split), layout.folder, table)
    count, tars = len(table.columns["labels"]), len(table.shards)
    return f"{count:,} images in {tars} tars, at the places in the index; pixels: ixt data check"


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
