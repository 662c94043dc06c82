"""A damaged index is never believed: bits flipped in caches, packed sets and shards."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tar_sets
import torch

from ixt.errors import DataError
from ixt.images import bucket_index
from ixt.images.index import Index, load_index
from ixt.images.index_cache import Table, read_table, save_table
from ixt.pipeline.decode.base import Request
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.plan.crop import eval_crops
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack

NUM_FLIPS = 40
FEW_OR_ALL = [
    pytest.param(NUM_FLIPS, id="some"),
    pytest.param(500, id="many", marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tar_sets.write_folder(tmp_path_factory.mktemp("set") / "folder")


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> Path:
    return pack(folder, tmp_path / "packed", PackOptions(shard_bytes=12_000)).root


def rows(index: Index) -> list[tuple[Any, ...]]:
    names = [str(path).removeprefix(str(index.root)) for path in index.paths(range(len(index)))]
    columns = (index.labels, index.sizes, index.num_bytes, index.formats)
    lists = [column.tolist() for column in columns]
    return [index.classes, *zip(names, *lists, strict=True)]


def flipped(files: list[Path], count: int) -> Iterator[tuple[Path, int]]:
    """Flip one bit of a file at a time, anywhere in them; it is put back afterwards."""
    rng = np.random.default_rng(0)
    sizes = np.array([file.stat().st_size for file in files])
    for place in rng.integers(0, sizes.sum(), count).tolist():
        number = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
        file, at = files[number], place - int(sizes[:number].sum())
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        yield file, at
        if file.exists():
            file.write_bytes(whole)


@pytest.mark.parametrize("count", FEW_OR_ALL)
def test_no_flipped_bit_of_a_cached_index_is_believed(
    folder: Path, tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    root = shutil.copytree(folder, tmp_path / "set")
    expected = rows(load_index(root, "train"))
    (table,) = (root / ".ixt").glob("train-*")
    for file, at in flipped(sorted(table.iterdir()), count):
        caplog.clear()
        assert rows(load_index(root, "train")) == expected, (file.name, at)
        assert any("building it anew" in line for line in caplog.messages), (file.name, at)


@pytest.mark.parametrize("count", FEW_OR_ALL)
def test_no_flipped_bit_of_a_packed_set_s_index_is_believed(
    packed: Path, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    expected = rows(load_index(packed, "train"))
    for file, at in flipped(sorted((packed / "train" / "index").iterdir()), count):
        shutil.rmtree(packed / ".ixt", ignore_errors=True)
        caplog.clear()
        assert rows(load_index(packed, "train")) == expected, (file.name, at)
        # A tar's time in the index may have any value: then its content is compared.
        assert any("building it anew" in line for line in caplog.messages), (file.name, at)


def decode(index: Index, row: int, on_error: str = "stop") -> torch.Tensor:
    crops = eval_crops(index.sizes[[row]], size=32)
    decoder = make_decoder(
        "torch", device=torch.device("cpu"), num_threads=1, prefetch=1, on_error=on_error
    )
    with closing(decoder):
        (batch,) = decoder.stream([Request(index.ranges([row]), crops)])
    assert bool(batch.damaged) == (on_error == "skip")
    return batch.images


def test_a_flipped_bit_of_a_packed_image_stops_with_shard_and_member(packed: Path) -> None:
    index = load_index(packed, "train")
    source = index.ranges([3])[0]
    for at in (source.size - 3, source.size // 2, 30):
        with open(source.path, "r+b") as shard:
            shard.seek(source.offset + at)
            (byte,) = shard.read(1)
            shard.seek(source.offset + at)
            shard.write(bytes([byte ^ 4]))
        with pytest.raises(DataError) as caught:
            decode(index, 3)
        assert f"{source.name}: cannot be read (its bytes are not those that were packed" in str(
            caught.value
        )
        decode(index, 3, on_error="skip")


CRAFTED = {
    "labels are not sorted": ("labels", 0, -1),
    "labels are not sorted, or outside of 0 to 2": ("labels", -1, 3),
    "formats holds an unknown number": ("formats", 2, 200),
    "sizes holds a side of no pixels": ("sizes", 2, -5),
    "num_bytes holds a negative number": ("num_bytes", 1, -1),
    "an image does not lie inside its tar": ("num_bytes", 1, 2**62),
    "path_offsets do not cut path_blob into names": ("path_offsets", 1, 10**9),
    "shard_numbers are outside of 0 to": ("shard_numbers", 4, 99),
    "does not lie inside its tar": ("shard_offsets", 4, -512),
}


@pytest.mark.parametrize(("problem", "change"), CRAFTED.items(), ids=CRAFTED)
def test_a_table_that_cannot_be_true_is_refused_whatever_its_checksums_say(
    packed: Path,
    tmp_path: Path,
    problem: str,
    change: tuple[str, int, int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = read_table(packed / "train" / "index")
    assert table is not None
    name, row, value = change
    columns = {key: column.copy() for key, column in table.columns.items()}
    columns[name][row] = value
    save_table(tmp_path / "crafted", replace(table, columns=columns))
    assert read_table(tmp_path / "crafted") is None
    assert problem in caplog.text


def test_images_that_overlap_in_their_tar_are_refused(
    packed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = read_table(packed / "train" / "index")
    assert table is not None
    columns = {key: column.copy() for key, column in table.columns.items()}
    first = int(np.flatnonzero(np.diff(columns["shard_numbers"]) == 0)[0])
    columns["shard_offsets"][first + 1] = columns["shard_offsets"][first] + 1
    save_table(tmp_path / "crafted", replace(table, columns=columns))
    assert read_table(tmp_path / "crafted") is None
    assert "two images overlap in their tar" in caplog.text


def without_checksums(table: Table, folder: Path) -> None:
    """Write a table as releases without checksums did."""
    columns = {name: column.copy() for name, column in table.columns.items()}
    for name, column in columns.items():
        if name != "checksums":
            np.save(folder / f"{name}.npy", column)
    (folder / "checksums.npy").unlink()
    meta = {"classes": table.classes, "folders": {}, "format": 2, "shards": table.shards}
    (folder / "meta.json").write_text(json.dumps(meta, sort_keys=True))


def test_a_set_packed_by_an_older_release_is_read_and_said_to_hold_no_checksums(
    packed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = rows(load_index(packed, "train"))
    table = read_table(packed / "train" / "index")
    assert table is not None
    without_checksums(table, packed / "train" / "index")
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        index = load_index(packed, "train")
        assert rows(index) == expected
        assert index.ranges([0])[0].checksum is None
    (line,) = caplog.messages
    assert "written by an older release and holds no checksums" in line


def test_a_folder_for_tables_that_others_may_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_index, "user_cache", lambda root: None)
    monkeypatch.setattr(bucket_index.tempfile, "gettempdir", lambda: str(tmp_path))
    own = bucket_index._cache("s3://sets/a")
    assert own.parent == tmp_path and own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)
    with pytest.raises(DataError, match="others may write there; set XDG_CACHE_HOME"):
        bucket_index._cache("s3://sets/a")
