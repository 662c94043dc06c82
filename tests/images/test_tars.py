"""Tars of images are read where they lie, and refused where they cannot be trusted."""

from __future__ import annotations

import gzip
import io
import logging
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tar_sets

from ixt.errors import DataError
from ixt.images.byte_ranges import ByteRange, read_bytes
from ixt.images.folders import Split
from ixt.images.index import load_index
from ixt.images.tars import list_members

pytestmark = pytest.mark.usefixtures("user_cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tar_sets.write_folder(tmp_path / "folder")


@pytest.fixture
def tars(folder: Path, tmp_path: Path) -> Path:
    return tar_sets.class_tars(folder, tmp_path / "tars")


def refuse(done: int, total: int) -> None:
    raise AssertionError("the index was built again")


def refused(root: Path) -> str:
    with pytest.raises(DataError) as error:
        load_index(root, "train")
    assert "\n" not in str(error.value)
    return str(error.value)


def one_class(root: Path, members: list[tuple[str, bytes]]) -> Path:
    tar_sets.write_tar(root / "train" / "cat.tar", members)
    return root


@pytest.mark.parametrize("make", [tar_sets.class_tars, tar_sets.outer_tar])
@pytest.mark.parametrize("split", ["train", "val"])
def test_tars_give_the_rows_and_bytes_of_the_folder(
    folder: Path, tmp_path: Path, make: Callable[[Path, Path], Path], split: Split
) -> None:
    reference = load_index(folder, split)
    root = make(folder, tmp_path / "tars")
    index = load_index(root, split, report=lambda done, total: None)
    for name, column in tar_sets.columns(reference).items():
        np.testing.assert_array_equal(tar_sets.columns(index)[name], column)
    assert tar_sets.contents(index) == tar_sets.contents(reference)
    again = load_index(root, split, report=refuse)
    assert again.paths(range(len(again))) == index.paths(range(len(index)))
    assert isinstance(again.shard_offsets.base, np.memmap)


def test_a_name_says_tar_and_member(folder: Path, tmp_path: Path) -> None:
    tars = tar_sets.class_tars(folder, tmp_path / "tars")
    assert load_index(tars, "train").paths([14]) == [
        f"{tars}/train/n02084071.tar!n02084071_77.JPEG"
    ]
    outer = tar_sets.outer_tar(folder, tmp_path / "outer")
    assert load_index(outer, "train").paths([14]) == [
        f"{outer}/ILSVRC2012_img_train.tar!n02084071.tar!n02084071_77.JPEG"
    ]


def test_the_outer_tar_may_lie_in_the_train_folder(folder: Path, tmp_path: Path) -> None:
    outer = tar_sets.outer_tar(folder, tmp_path / "outer")
    (outer / "train").mkdir()
    shutil.move(outer / "ILSVRC2012_img_train.tar", outer / "train")
    reference = load_index(folder, "train")
    assert tar_sets.contents(load_index(outer, "train")) == tar_sets.contents(reference)


def test_a_tar_of_class_folders_has_their_classes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one" / "train").mkdir(parents=True)
    with tarfile.open(tmp_path / "one" / "train" / "all.tar", "w") as tar:
        tar.add(folder / "train", ".")
    index, reference = load_index(tmp_path / "one", "train"), load_index(folder, "train")
    assert index.classes == reference.classes
    assert tar_sets.contents(index) == tar_sets.contents(reference)


def test_hidden_and_other_members_are_left_out(tmp_path: Path) -> None:
    members = [("notes.txt", b"x"), ("._a.jpg", b"x"), (".trash/a.jpg", b"x"), ("a.jpg", b"x")]
    assert load_index(one_class(tmp_path, members), "train").paths([0]) == [
        f"{tmp_path}/train/cat.tar!a.jpg"
    ]


def test_labels_beside_images_are_never_overruled_by_the_name_of_the_tar(tmp_path: Path) -> None:
    members = [(f"{n}.jpg", b"x") for n in range(40)]
    one_class(tmp_path, [*members, ("7.cls", b"3")])
    assert "contains 7.cls beside the image of that name" in refused(tmp_path)


def test_members_with_long_and_odd_names_are_found(tmp_path: Path) -> None:
    odd = [os.fsdecode(b"\xff new\nline.jpg"), "ä" * 120 + ".jpg"]
    one_class(tmp_path, [(name, name.encode("utf-8", "surrogateescape")) for name in odd])
    index = load_index(tmp_path, "train")
    assert sorted(tar_sets.contents(index)) == sorted(os.fsencode(name) for name in odd)
    assert {path.rpartition("!")[2] for path in index.paths([0, 1])} == set(odd)


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("../a.jpg", "points outside the tar"),
        ("b/../../a.jpg", "points outside the tar"),
        ("/etc/a.jpg", "points outside the tar"),
    ],
)
def test_a_member_outside_of_the_tar_is_refused(tmp_path: Path, member: str, reason: str) -> None:
    one_class(tmp_path, [("fine.jpg", b"x"), (member, b"x")])
    assert refused(tmp_path) == (
        f"{tmp_path}/train/cat.tar: member {member!r} {reason}; download or pack the tar again"
    )


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.CHRTYPE, "is not a plain file"),
        (tarfile.FIFOTYPE, "is not a plain file"),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes, reason: str) -> None:
    (tmp_path / "train").mkdir()
    with tarfile.open(tmp_path / "train" / "cat.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    assert f"cat.tar: member 'a.jpg' {reason}; only plain files are read" in refused(tmp_path)


def test_an_image_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    one_class(tmp_path, [("a.jpg", b"x"), ("a.jpg", b"y")])
    assert "cat.tar: contains a.jpg twice" in refused(tmp_path)


def test_a_cut_tar_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    path = one_class(tmp_path, [(f"{n}.jpg", bytes(700)) for n in range(3)]) / "train" / "cat.tar"
    whole = path.read_bytes()
    assert len(list_members(path)) == 3
    # Three members of a header and two blocks each, then the end mark of two blocks.
    for length in (0, 100, 511, 512, 1000, 1536, 1537, 2048, 4000, 4608, 4700):
        path.write_bytes(whole[:length])
        assert "cat.tar: cannot be read as a tar" in refused(tmp_path), length


def test_a_tar_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = one_class(tmp_path, [(f"{n}.jpg", bytes(700)) for n in range(3)]) / "train" / "cat.tar"
    content = bytearray(path.read_bytes())
    content[1536:1600] = b"?" * 64
    path.write_bytes(content)
    assert "no end mark at byte 1536" in refused(tmp_path)


def test_an_inner_tar_that_is_cut_is_refused(folder: Path, tmp_path: Path) -> None:
    tars = tar_sets.class_tars(folder, tmp_path / "tars")
    inner = (tars / "train" / "n01440764.tar").read_bytes()
    tar_sets.write_tar(tmp_path / "o" / "ILSVRC2012_img_train.tar", [("n1.tar", inner[:3000])])
    assert "ILSVRC2012_img_train.tar: cannot be read as a tar" in refused(tmp_path / "o")


@pytest.mark.parametrize("name", ["cat.tar.gz", "cat.tgz"])
def test_a_compressed_tar_says_what_to_do(tmp_path: Path, name: str) -> None:
    path = one_class(tmp_path, [("a.jpg", b"x")]) / "train" / "cat.tar"
    path.with_name(name).write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert refused(tmp_path) == (
        f"{tmp_path}/train: 1 compressed tar ({name}), whose images cannot be read in random "
        "order; decompress each once (gunzip FILE) so that its name ends in .tar"
    )


def test_a_compressed_tar_under_another_name_is_recognised(tmp_path: Path) -> None:
    path = one_class(tmp_path, [("a.jpg", b"x")]) / "train" / "cat.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert "cat.tar: is compressed" in refused(tmp_path)


def test_a_tar_without_images_is_refused(tmp_path: Path) -> None:
    one_class(tmp_path, [("notes.txt", b"x")])
    assert "cat.tar: contains no image files; fill or remove it" in refused(tmp_path)


def test_a_half_extracted_set_is_refused(tars: Path) -> None:
    (tars / "train" / "n01440764").mkdir()
    (tars / "train" / "n01440764" / "a.JPEG").touch()
    assert refused(tars) == (
        f"{tars}/train: contains class folders and also 2 tars (n01443537.tar, n02084071.tar) "
        "without a folder; extract these too, or move the folders away to read the tars"
    )


def test_class_folders_win_over_the_tars_that_they_came_from(folder: Path, tars: Path) -> None:
    for tar in (tars / "train").iterdir():
        shutil.copy(tar, folder / "train")
    assert load_index(folder, "train").shards == ()


@pytest.mark.parametrize("place", [".", "val"])
def test_the_validation_tar_has_the_classes_of_the_challenge(tmp_path: Path, place: str) -> None:
    # The classes of numbers 1 to 4 and 251.
    classes = ("n01751748", "n09193705", "n02105855", "n04263257", "n12620546")
    names = [f"ILSVRC2012_val_{number:08}.JPEG" for number in (1, 2, 3, 4, 251)]
    members = [(name, name.encode()) for name in names]
    tar_sets.write_tar(tmp_path / "tar" / place / "ILSVRC2012_img_val.tar", members)
    for name, class_name in zip(names, classes, strict=True):
        path = tmp_path / "folder" / "val" / class_name / name
        path.parent.mkdir(parents=True)
        path.write_bytes(name.encode())
    index, reference = load_index(tmp_path / "tar", "val"), load_index(tmp_path / "folder", "val")
    assert index.classes == reference.classes
    assert tar_sets.contents(index) == tar_sets.contents(reference)


def test_a_foreign_image_in_the_validation_tar_is_named(tmp_path: Path) -> None:
    path = tar_sets.write_tar(tmp_path / "ILSVRC2012_img_val.tar", [("cat.JPEG", b"x")])
    with pytest.raises(DataError) as error:
        load_index(tmp_path, "val")
    assert str(error.value) == (
        f"{path}: member cat.JPEG is not a validation image of ILSVRC2012; download the tar again, "
        "or give class folders"
    )


def test_a_changed_tar_is_indexed_again_and_said_so(
    tars: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_index(tars, "train")
    image = io.BytesIO(b"not an image")
    with tarfile.open(tars / "train" / "n01440764.tar", "a") as tar:
        info = tarfile.TarInfo("zebra.jpg")
        info.size = len(image.getvalue())
        tar.addfile(info, image)
    with caplog.at_level(logging.WARNING, "ixt"):
        assert len(load_index(tars, "train")) == 16
    assert f"{tars}/train: rebuilding the index" in caplog.text
    assert len(load_index(tars, "train", report=refuse)) == 16


def test_a_new_tar_is_noticed(tars: Path) -> None:
    load_index(tars, "train")
    tar_sets.write_tar(tars / "train" / "zebra.tar", [("a.jpg", b"x")])
    assert load_index(tars, "train").classes[-1] == "zebra"


def test_a_tar_rewritten_to_the_same_length_is_noticed(tmp_path: Path) -> None:
    path = one_class(tmp_path, [("a.jpg", b"1" * 900), ("b.jpg", b"2" * 100)])
    assert load_index(path, "train").num_bytes.tolist() == [900, 100]
    one_class(tmp_path, [("a.jpg", b"1" * 100), ("b.jpg", b"2" * 900)])
    assert load_index(path, "train").num_bytes.tolist() == [100, 900]


def test_a_copied_set_keeps_its_index(tars: Path, tmp_path: Path) -> None:
    load_index(tars, "train")
    shutil.copytree(tars, tmp_path / "copy", copy_function=shutil.copyfile)
    assert len(load_index(tmp_path / "copy", "train", report=refuse)) == 15


def test_a_range_behind_the_end_of_its_tar_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"0123456789")
    assert read_bytes(ByteRange(str(path), 2, 3)).tobytes() == b"234"
    with pytest.raises(OSError, match="the file ends before the image does"):
        read_bytes(ByteRange(str(path), 8, 3))


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "1,x"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "99"},
        {"GNU.sparse.size": "abc"},
        {"GNU.sparse.map": "0,10", "GNU.sparse.size": "10", "GNU.sparse.name": "x.jpg"},
        {"size": "9" * 30},
        {"size": "-5"},
    ],
    ids=str,
)
def test_odd_headers_of_a_member_are_one_line(tmp_path: Path, headers: dict[str, str]) -> None:
    (tmp_path / "train").mkdir()
    member = tarfile.TarInfo("x.jpg")
    member.size, member.pax_headers = 10, headers
    with tarfile.open(tmp_path / "train" / "cat.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(b"notanumber"))
    assert "cat.tar: " in refused(tmp_path)


@pytest.mark.parametrize("size", [2**63, 2**80, -5])
def test_a_size_that_no_file_has_is_one_line(tmp_path: Path, size: int) -> None:
    (tmp_path / "train").mkdir()
    member = tarfile.TarInfo("x.jpg")
    member.size = size
    content = member.tobuf(tarfile.GNU_FORMAT) + bytes(20 * 512)
    (tmp_path / "train" / "cat.tar").write_bytes(content)
    assert "cat.tar: cannot be read" in refused(tmp_path)


def test_a_pipe_among_images_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(OSError, match="not a regular file"):
        read_bytes(ByteRange(str(tmp_path / "x.jpg")))
