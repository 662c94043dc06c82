"""Images are held out by their names alone: none twice, none moved by others, in every layout."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_images import write_images

from ixt.errors import DataError
from ixt.images.data_digest import digest_images
from ixt.images.hold_out import hold_out, load_split, portable_names
from ixt.images.index import Index, load_index
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 40 images, without train/ and val/."""
    root = tmp_path / "photos"
    write_images(root, [f"{kind}/IMG-{n}.png" for kind in ("cat", "dog") for n in range(40)])
    return root


def parts(root: Path, fraction: float = 0.25) -> tuple[set[str], set[str]]:
    train, val = (load_split(root, split, fraction) for split in ("train", "val"))
    return set(portable_names(train)), set(portable_names(val))


def names_of(index: Index) -> list[str]:
    return [os.path.basename(path) for path in index.paths(np.arange(len(index)))]


def test_each_image_is_in_exactly_one_part(photos: Path) -> None:
    train, val = parts(photos)
    assert train | val == set(portable_names(load_index(photos, "train")))
    assert not train & val
    assert 8 < len(val) < 32  # a quarter of 80, give or take


def test_images_that_are_added_move_none(photos: Path) -> None:
    train, val = parts(photos)
    write_images(photos, [f"cat/new-{n}.png" for n in range(30)] + ["emu/1.png", "emu/2.png"])
    train_now, val_now = parts(photos)
    assert train < train_now
    assert val <= val_now
    assert len(train_now) + len(val_now) == 112


def test_more_are_held_out_by_a_larger_fraction_and_they_hold_the_others(photos: Path) -> None:
    small, large = (parts(photos, fraction)[1] for fraction in (0.1, 0.4))
    assert small < large


def test_folders_with_train_and_packed_sets_hold_out_the_same(digits: Path, tmp_path: Path) -> None:
    pack(digits, tmp_path / "packed", PackOptions(shard_bytes=100_000))
    expected, packed = (load_index(root, "train") for root in (digits, tmp_path / "packed"))
    for split in ("train", "val"):
        one, other = (hold_out(index, 0.2, split) for index in (expected, packed))
        assert digest_images(one) == digest_images(other)
        assert len(one) in range(240, 340) or split == "train"


def test_a_folder_of_train_alone_is_its_class_folders(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "other" / "train", ignore=lambda *_: [".ixt"])
    assert parts(photos) == parts(tmp_path / "other")


def test_every_class_keeps_an_image_to_train_on(tmp_path: Path) -> None:
    write_images(tmp_path / "few", [f"{kind:02}/{n}.png" for kind in range(30) for n in range(2)])
    train = load_split(tmp_path / "few", "train", 0.5)
    val = load_split(tmp_path / "few", "val", 0.5)
    assert len(train.classes) == 30
    assert np.bincount(train.labels).min() == 1
    assert set(val.classes) < set(train.classes)
    assert len(val.classes) == len(np.unique(val.labels)) > 10
    prefixes = [os.path.basename(os.path.dirname(path)) for path in val.paths(np.arange(len(val)))]
    assert [val.classes[label] for label in val.labels] == prefixes


def test_the_same_name_of_two_formats_is_in_one_part(tmp_path: Path) -> None:
    names = [
        f"{kind}/{n}.{suffix}" for kind in "ab" for n in range(30) for suffix in ("png", "bmp")
    ]
    write_images(tmp_path / "twice", names)
    train, val = (load_split(tmp_path / "twice", split, 0.3) for split in ("train", "val"))
    assert not set(portable_names(train)) & set(portable_names(val))
    assert len(val) == 2 * len(set(portable_names(val))) > 0


def test_the_index_of_bare_class_folders_is_built_once(
    photos: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_index(photos, "train")
    monkeypatch.delattr("ixt.images.index._build")
    assert names_of(first) == names_of(load_index(photos, "train"))
    assert caplog.text == ""


def test_a_set_with_val_holds_nothing_else_out(digits: Path) -> None:
    with pytest.raises(
        DataError, match=r"contains val, but data\.val_fraction is for sets without"
    ):
        load_split(digits, "val", 0.2)


def test_a_fraction_that_holds_out_nothing_is_refused(photos: Path) -> None:
    with pytest.raises(DataError, match=r"photos: data\.val_fraction 0\.0001 holds out none of"):
        load_split(photos, "train", 1e-4)


def test_bare_class_folders_without_a_fraction_say_what_to_set(photos: Path) -> None:
    assert len(load_split(photos, "train", None)) == 80
    with pytest.raises(DataError, match=r"contains no val/ .* set data\.val_fraction: 0\.2"):
        load_split(photos, "val", None)


def test_loose_images_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "loose", ["1.png", "2.png"])
    with pytest.raises(DataError, match="loose: contains images but no class folders; sort them"):
        load_index(tmp_path / "loose", "train")
