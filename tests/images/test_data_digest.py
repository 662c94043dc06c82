"""The digest of a set of images is the same in every layout and changes with any of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tar_sets
from PIL import Image

from ixt.images.data_digest import DataDigest, difference, digest_images
from ixt.images.index import load_index
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack


def digest(root: Path) -> DataDigest:
    return digest_images(load_index(root, "train"))


def add(root: Path, name: str) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    file = root / "train" / "n01440764" / name
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(file)


def test_every_layout_has_the_digest_of_the_folder_whatever_the_files_are_called(
    folder: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(folder, odd, ignore=shutil.ignore_patterns(".ixt"))
    # Packing takes dots out of names, and numbers those that would be the same.
    for name in ("a.b.png", "a.c.png", "c.jpg", "c.png", "e/f.png", "g-1.png", "x!y.png"):
        add(odd, name)
    for number, root in enumerate((folder, odd)):
        packed = pack(root, tmp_path / f"packed-{number}", PackOptions(shard_bytes=12_000)).root
        assert digest(packed) == digest(root)
    assert digest(tar_sets.class_tars(folder, tmp_path / "tars")) == digest(folder)
    assert digest(tar_sets.outer_tar(folder, tmp_path / "outer")) == digest(folder)


def image(root: Path, place: int) -> Path:
    return sorted((root / "train" / "n01440764").iterdir())[place]


def swap(root: Path) -> None:
    """The content of two files of a class, which have other sizes."""
    one, other = image(root, 0), image(root, 1)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (
        lambda root: image(root, 0).unlink(),
        "14 images and 15; class n01440764 first: 4 and 5",
    ),
    "added": (
        lambda root: add(root, "new.png"),
        "16 images and 15; class n01440764 first: 6 and 5",
    ),
    "another label": (
        lambda root: image(root, 0).rename(root / "train" / "n01443537" / "x.JPEG"),
        "15 images and 15; class n01440764 first: 4 and 5",
    ),
    "another name": (
        lambda root: image(root, 0).rename(image(root, 0).with_name("another.JPEG")),
        "15 images and 15; class n01440764 first: 5 and 5, with different names or sizes",
    ),
    "swapped": (
        swap,
        "15 images and 15; class n01440764 first: 5 and 5, with different names or sizes",
    ),
    "a renamed class": (
        lambda root: (root / "train" / "n02084071").rename(root / "train" / "n03000000"),
        "15 images and 15; class n02084071 first: none and 6",
    ),
}


@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_changes_the_digest_and_its_first_class_is_named(
    folder: Path, tmp_path: Path, change: Callable[[Path], object], told: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".ixt"))
    assert digest(copy) == digest(folder)
    change(copy)
    shutil.rmtree(copy / ".ixt")
    found = digest(copy)
    assert found.digest != digest(folder).digest
    assert difference(found, digest(folder)) == told


def test_names_that_share_all_their_letters_differ_by_where_one_ends(tmp_path: Path) -> None:
    digests = set()
    for number, names in enumerate((("ab.png", "c.png"), ("a.png", "bc.png"))):
        root = tmp_path / str(number)
        os.makedirs(root / "train")
        for name in names:
            add(root, name)
        digests.add(digest(root).digest)
    assert len(digests) == 2
