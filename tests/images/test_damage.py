"""Whatever bit flips in an index or in a packed image: it is noticed, or changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tar_sets
from numpy.typing import NDArray

from ixt.errors import DataError
from ixt.images import bucket_index, index_cache
from ixt.images.byte_ranges import read_bytes
from ixt.images.image import DamagedImage, read_image
from ixt.images.index import Index, load_index, take_rows
from ixt.images.index_table import COLUMNS
from ixt.images.table_files import encode_table, read_table
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack

pytestmark = pytest.mark.usefixtures("user_cache")

WITHOUT_CHECKSUMS = Path(__file__).parent / "formats" / "2"
"""The train split of a set that was packed before there were checksums; two cats, two dogs."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tar_sets.write_folder(tmp_path_factory.mktemp("written") / "folder")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "folder"))


@pytest.fixture(scope="module")
def packed_once(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    return pack(written, out, PackOptions(shard_bytes=12_000)).root


@pytest.fixture
def packed(packed_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed_once, tmp_path / "packed"))


def flip(path: Path, place: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (value,) = file.read(1)
        file.seek(place)
        file.write(bytes([value ^ (1 << bit)]))


def seen(index: Index) -> list[object]:
    """All that training takes from an index."""
    columns = tar_sets.columns(index)
    plain = {k: v if isinstance(v, tuple) else v.tolist() for k, v in columns.items()}
    return [plain, index.paths(range(len(index))), tar_sets.contents(index)]


def cached_table(root: Path) -> Path:
    (table,) = (root / ".ixt").glob("train-*")
    return table


@pytest.mark.parametrize("name", [*(f"{name}.npy" for name in COLUMNS), "meta.json"])
def test_a_flipped_bit_in_a_cached_index_is_named_and_the_index_built_anew(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = seen(load_index(folder, "train"))
    file = cached_table(folder) / name
    flip(file, os.path.getsize(file) - 2)
    assert seen(load_index(folder, "train")) == before
    (record,) = caplog.records
    assert str(file.parent) in record.getMessage()
    assert f"{name} is damaged" in record.getMessage()
    caplog.clear()
    assert seen(load_index(folder, "train")) == before
    assert caplog.records == []


@pytest.mark.parametrize("name", [*(f"{name}.npy" for name in COLUMNS), "meta.json"])
def test_a_flipped_bit_in_a_packed_index_is_named_and_the_tars_listed(
    packed: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = seen(load_index(packed, "train"))
    file = packed / "train" / "index" / name
    flip(file, os.path.getsize(file) - 2)
    for _ in range(2):  # listed, then from the cache
        assert seen(load_index(packed, "train")) == before
    record, *others = caplog.records
    assert record.getMessage() == (
        f"{file.parent}: {name} is damaged"
        f"{'' if name == 'meta.json' else ' (its SHA-256 is not that in meta.json)'}; the tars are "
        "listed instead; copy the packed set again, or pack it again"
    )
    lost = name in ("crc32.npy", "meta.json")
    assert load_index(packed, "train").has_checksums != lost
    assert [record.getMessage() for record in others] == [
        f"{file.parent}: contains no checksums, so damage in it or in an image may go unnoticed; "
        "pack the set again to add them"
    ] * lost


def test_a_damaged_header_of_a_column_raises_nothing_of_numpys(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = seen(load_index(folder, "train"))
    file = cached_table(folder) / "labels.npy"
    file.write_bytes(file.read_bytes().replace(b"'shape': (", b"'shape'\x00 ("))
    assert seen(load_index(folder, "train")) == before
    old = Path(shutil.copytree(WITHOUT_CHECKSUMS, folder.parent / "old"))
    file = old / "train" / "index" / "labels.npy"
    file.write_bytes(file.read_bytes().replace(b"'shape': (", b"'shape': [["))
    assert load_index(old, "train").labels.tolist() == [0, 0, 1, 1]
    assert "labels.npy is damaged" in caplog.text


def test_processes_that_find_damage_at_once_agree(folder: Path) -> None:
    before = load_index(folder, "train").labels.tolist()
    flip(cached_table(folder) / "labels.npy", 140)
    code = (
        "import sys; from ixt.images.index import load_index;"
        "print(load_index(sys.argv[1], 'train').labels.tolist())"
    )
    command = [sys.executable, "-c", code, str(folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [job.communicate()[0] for job in running] == [f"{before}\n"] * 4
    assert [job.returncode for job in running] == [0] * 4
    assert read_table(cached_table(folder)).columns["labels"].tolist() == before


def test_damage_in_a_read_only_data_root_is_made_good_in_the_users_cache(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = seen(load_index(folder, "train"))
    table = cached_table(folder)
    flip(table / "labels.npy", 140)
    mkdir = Path.mkdir

    def read_only(self: Path, *args: Any, **kwargs: Any) -> None:
        if self.is_relative_to(folder) and not self.exists():
            raise OSError(30, "Read-only file system", str(self))
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", read_only)
    assert seen(load_index(folder, "train")) == before
    caplog.clear()
    assert seen(load_index(folder, "train")) == before
    assert caplog.records == []


def wrong_labels(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["labels"][0] = -1
    return "labels contains a number outside the 3 classes"


def labels_beyond(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["labels"][-1] = 3
    return "labels contains a number outside the 3 classes"


def other_labels(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["labels"][4] = 1
    return "labels and path_blob disagree about the images of class n01443537"


def unsorted_labels(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["labels"][0] = 2
    return "labels is not sorted by class"


def negative_offset(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["shard_offsets"][3] = -512
    return "shard_offsets and num_bytes point outside a tar"


def offset_outside(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["shard_offsets"][3] = 2**62
    return "shard_offsets and num_bytes point outside a tar"


def odd_offset(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["shard_offsets"][0] += 1
    return "shard_offsets contains an offset at which no file begins"


def overlap(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["shard_offsets"][1] = columns["shard_offsets"][0]
    columns["shard_numbers"][1] = columns["shard_numbers"][0]
    return "shard_offsets contains images that overlap"


def absurd_length(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["num_bytes"][0] = 2**62
    return "shard_offsets and num_bytes point outside a tar"


def negative_length(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["num_bytes"][0] = -1
    return "num_bytes contains a negative length"


def absurd_size(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["sizes"][0] = 2**31 - 1
    return "sizes contains a height or width that no image has"


def no_size(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["sizes"][0] = 0
    return "sizes and formats disagree about which images are readable"


def unknown_format(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["formats"][0] = 77
    return "formats contains a format that does not exist"


def falling_paths(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["path_offsets"][2] = columns["path_offsets"][1] - 1
    return "path_offsets does not rise from 0 to the length of path_blob"


def unknown_shard(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["shard_numbers"][0] = 99
    return "shard_numbers contains a number outside the"


def zero_byte(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["path_blob"][-1] = 0
    return "path_blob contains a zero byte"


def same_name(columns: dict[str, NDArray[np.generic]]) -> str:
    start, middle, end = columns["path_offsets"][:3].tolist()
    assert middle - start == end - middle
    columns["path_blob"][middle:end] = columns["path_blob"][start:middle]
    return "path_blob contains the same name twice"


def few_rows(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["sizes"] = columns["sizes"][:-1]
    return "sizes contains an array of (14, 2) int32"


def other_type(columns: dict[str, NDArray[np.generic]]) -> str:
    columns["labels"] = columns["labels"].astype(np.float32)
    return "labels contains an array of (15,) float32"


CRAFTED = [
    wrong_labels, labels_beyond, other_labels, unsorted_labels, negative_offset, offset_outside,
    odd_offset, overlap, absurd_length, negative_length, absurd_size, no_size, unknown_format,
    falling_paths, unknown_shard, zero_byte, same_name, few_rows, other_type,
]  # fmt: skip


Change = Callable[[dict[str, NDArray[np.generic]]], str]


def craft(index: Path, change: Change) -> str:
    """Write the index again with values that cannot be true, and with the digests of these."""
    table = read_table(index)
    columns = {name: column.copy() for name, column in table.columns.items()}
    problem = change(columns)
    table.columns.update(columns)
    for name, content in encode_table(table).items():
        (index / name).write_bytes(content)
    return problem


@pytest.mark.parametrize("change", CRAFTED)
def test_a_value_that_cannot_be_true_is_named(
    packed: Path, change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    before = seen(load_index(packed, "train"))
    problem = craft(packed / "train" / "index", change)
    assert seen(load_index(packed, "train")) == before
    assert f"{packed}/train/index: {problem}" in caplog.text


def test_names_may_hold_bytes_that_are_no_text(folder: Path, tmp_path: Path) -> None:
    image = folder / "train" / "n01440764" / "n01440764_77.JPEG"
    image.rename(image.with_name(os.fsdecode(b"\xff.JPEG")))
    out = pack(folder, tmp_path / "out", PackOptions()).root
    read_table(out / "train" / "index", packed=True)
    assert any(b"\xff" in os.fsencode(p) for p in load_index(out, "train").paths(range(15)))


def test_a_flipped_bit_in_a_packed_image_is_named_by_shard_and_member(packed: Path) -> None:
    index = load_index(packed, "train")
    for source in index.ranges(range(len(index))):
        assert source.size is not None
        flip(Path(source.path), source.offset + source.size // 2, 5)
        with pytest.raises(DamagedImage) as error:
            read_image(source)
        assert str(error.value) == (
            f"{source.path}!{source.member}: its bytes have changed since packing (the "
            "CRC-32 differs); copy the tar again"
        )
    # The index stays in use: without it, nothing would be verified.
    assert load_index(packed, "train").has_checksums


def test_checksums_of_images_that_lie_elsewhere_are_not_taken(
    packed: Path, written: Path, tmp_path: Path
) -> None:
    other = pack(written, tmp_path / "other", PackOptions(shard_bytes=20_000)).root
    shutil.rmtree(packed / "train" / "index")
    shutil.copytree(other / "train" / "index", packed / "train" / "index")
    index = load_index(packed, "train")
    assert not index.has_checksums
    assert len(tar_sets.contents(index)) == 15


def test_a_subset_of_a_packed_set_keeps_the_checksums_of_its_images(packed: Path) -> None:
    index = load_index(packed, "train")
    chosen = np.array([3, 7, 14])
    for source, row in zip(take_rows(index, chosen).ranges(range(3)), chosen, strict=True):
        assert source.crc32 == index.crc32[row]
        read_bytes(source)


def test_a_packed_set_without_checksums_is_read_and_said_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = Path(shutil.copytree(WITHOUT_CHECKSUMS, tmp_path / "old"))
    for _ in range(2):
        index = load_index(old, "train")
    assert index.labels.tolist() == [0, 0, 1, 1]
    assert index.sizes.tolist() == [[18, 24], [18, 25]] * 2
    assert all(content.startswith(b"\xff\xd8") for content in tar_sets.contents(index))
    assert [record.getMessage() for record in caplog.records] == [
        f"{old}/train/index: contains no checksums, so damage in it or in an image may go "
        "unnoticed; pack the set again to add them"
    ]


def test_a_cached_table_without_checksums_is_built_anew(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = seen(load_index(folder, "train"))
    table = cached_table(folder)
    meta = json.loads((table / "meta.json").read_text())
    kept = {key: meta[key] for key in ("classes", "folders", "shards")}
    (table / "meta.json").write_text(json.dumps(kept | {"format": 2}))
    assert seen(load_index(folder, "train")) == before
    assert "was written by an earlier release of ixt, without checksums" in caplog.text


def test_a_table_with_digests_does_not_pass_for_one_without(packed: Path) -> None:
    file = packed / "train" / "index" / "meta.json"
    file.write_bytes(file.read_bytes().replace(b'"format": 3', b'"format": 2'))
    assert not load_index(packed, "train").has_checksums


def test_nothing_is_read_from_a_folder_in_tmp_that_others_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_index, "user_cache", lambda root: None)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    own = tmp_path / f"ixt-{os.getuid()}"
    assert bucket_index._cache("s3://sets/x").parent == own
    assert own.stat().st_mode & 0o777 == 0o700
    refused = "is not a folder that only you can write to, so no index is read from it; remove it"
    own.chmod(0o777)
    with pytest.raises(DataError, match=refused):
        bucket_index._cache("s3://sets/x")
    own.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    own.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=refused):
        bucket_index._cache("s3://sets/x")
    own.unlink()
    own.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: os.stat(own).st_uid + 1)
    (tmp_path / f"ixt-{os.stat(own).st_uid + 1}").mkdir(mode=0o700)
    with pytest.raises(DataError, match=refused):
        bucket_index._cache("s3://sets/x")


def outcome(root: Path, before: list[object], caplog: pytest.LogCaptureFixture) -> str:
    """What comes of damage: told, told and the result is right, or nobody would know."""
    caplog.clear()
    index_cache.say_once.cache_clear()
    try:
        same = seen(load_index(root, "train")) == before
    except (DataError, OSError):
        return "refused"
    if caplog.records:
        return "rebuilt" if same else "silent"
    return "harmless" if same else "silent"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["cache", "packed index", "shards"])
def test_no_flipped_bit_goes_unnoticed(
    folder: Path, packed: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder if place == "cache" else packed
    before = seen(load_index(root, "train"))
    rng = np.random.default_rng(0)
    top = cached_table(folder) if place == "cache" else packed / "train" / "index"
    paths = sorted((packed / "train").glob("*.tar")) if place == "shards" else sorted(top.iterdir())
    counts: Counter[str] = Counter()
    for path in paths:
        content = path.read_bytes()
        for byte in rng.choice(len(content), min(len(content), 60), replace=False).tolist():
            flip(path, byte, int(rng.integers(8)))
            counts[outcome(root, before, caplog)] += 1
            for left in (root / ".ixt").glob("*"):
                if left != top:
                    shutil.rmtree(left)
            top.mkdir(exist_ok=True)
            path.write_bytes(content)
        load_index(root, "train")
    print(place, dict(counts))
    assert counts["silent"] == 0
    assert sum(counts.values()) > 300


@pytest.mark.slow
def test_no_flipped_bit_in_a_packed_image_goes_unnoticed(packed: Path) -> None:
    index = load_index(packed, "train")
    rng = np.random.default_rng(0)
    for source in index.ranges(range(len(index))):
        assert source.size is not None
        path = Path(source.path)
        content = path.read_bytes()
        for byte in range(source.offset, source.offset + source.size):
            flip(path, byte, int(rng.integers(8)))
            with pytest.raises(DamagedImage, match="have changed since packing"):
                read_image(source)
            path.write_bytes(content)
