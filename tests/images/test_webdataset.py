"""WebDataset shards give the images and labels of the class folders, or are refused in one line."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tar_sets
from same_index import SPLITS, assert_same, refused

from ixt.evaluate.testset import open_test_set
from ixt.images.classes import imagenet_synsets
from ixt.images.folders import Split
from ixt.images.hold_out import hold_out, load_split, own_val, portable_names
from ixt.images.index import load_index
from ixt.images.shard_names import expand
from ixt.tools.check.folder import check_folder
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack

pytestmark = pytest.mark.usefixtures("user_cache")

LONG = {"train": "train", "val": "validation"}

Label = Callable[[Path, int], dict[str, bytes]]


def write_set(
    folder: Path,
    root: Path,
    label: Label = tar_sets.number_label,
    name: Callable[[Path], str] = lambda path: path.stem,
    place: str = "{split}/{number:04}.tar",
) -> Path:
    for split in SPLITS:

        def path(number: int, split: Split = split) -> Path:
            return root / place.format(split=split, long=LONG[split], number=number)

        tar_sets.shards(folder, split, path, label, name)
    return root


def one_shard(root: Path, *members: tuple[str, bytes], name: str = "0000.tar") -> Path:
    tar_sets.write_tar(root / "train" / name, members)
    return root


def described(**fields: object) -> dict[str, bytes]:
    return {".json": json.dumps(fields).encode()}


LABELS: dict[str, tuple[Label, Callable[[Path], str]]] = {
    "numbers, and classes in the files' names": (tar_sets.number_label, lambda path: path.stem),
    "numbers, and class folders": (
        tar_sets.number_label,
        lambda path: f"{path.parent.name}/{path.stem}",
    ),
    "WordNet IDs": (lambda path, _: {".cls": path.parent.name.encode()}, lambda path: path.stem),
    "keys that are numbers, and file names in .json": (
        lambda path, number: (
            tar_sets.number_label(path, number) | described(label=number, filename=path.name)
        ),
        lambda path: f"{sum(path.read_bytes()):08d}",
    ),
    "the class in .json": (
        lambda path, number: described(
            label=number, class_name=path.parent.name, filename=f"train/x/{path.name}"
        ),
        lambda path: f"{sum(path.read_bytes()):08d}",
    ),
}


@pytest.mark.parametrize("kind", LABELS)
def test_shards_give_the_rows_bytes_and_digest_of_the_folder(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    root = write_set(folder, tmp_path, *LABELS[kind])
    for split in SPLITS:
        reference = load_index(folder, split)
        assert_same(load_index(root, split), reference)
    train = load_index(root, "train")
    held, reference = (hold_out(load_index(path, "train"), 0.3, "val") for path in (root, folder))
    assert portable_names(held) == portable_names(reference)
    assert train.paths([0])[0].startswith(f"{root}/train/000")


def test_shards_are_found_by_the_split_in_their_names(folder: Path, tmp_path: Path) -> None:
    root = write_set(folder, tmp_path, place="imagenet1k-{long}-{number:04}.tar")
    tar_sets.write_tar(root / "imagenet1k-test-0000.tar", [("a.jpg", b"x")])
    for split in SPLITS:
        assert_same(load_index(root, split), load_index(folder, split))
    assert own_val(str(root)) == "imagenet1k-validation-0000.tar"
    assert_same(open_test_set(str(root)), load_index(folder, "val"))
    (root / "more.tar").write_bytes(b"")
    assert "the names of 1 tar (more.tar) contain neither train nor val" in refused(root)


def test_a_brace_pattern_names_the_shards_of_both_splits(folder: Path, tmp_path: Path) -> None:
    root = write_set(folder, tmp_path, place="set-{long}-{number:04}.tar")
    for pattern in ("set-{train,validation}-{0000..0002}.tar", "{set-{train,validation}-*}.tar"):
        if "*" in pattern:
            pattern = "{set-train-{0000..0002},set-validation-{0000..0002}}.tar"
        for split in SPLITS:
            index = load_index(root / pattern, split)
            assert_same(index, load_index(folder, split))
            assert index.root == root
    assert own_val(str(root / pattern)) == "set-validation-0000.tar"
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == [".ixt"]
    few = load_index(root / "set-train-{0000..0001}.tar", "train")
    assert len(few) == 10
    missing = refused(root / "set-{train,validation}-{0000..0003}.tar")
    assert f"{root}/set-train-0003.tar: no such file" in missing


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a", ["a"]),
        ("a-{8..11}", ["a-8", "a-9", "a-10", "a-11"]),
        ("{x,y-{00..01}}.tar", ["x.tar", "y-00.tar", "y-01.tar"]),
        ("{a,b}{1,2}", ["a1", "a2", "b1", "b2"]),
    ],
)
def test_braces_are_expanded_as_a_shell_does(pattern: str, names: list[str]) -> None:
    assert list(expand(pattern)) == names


def test_shards_without_validation_images_hold_some_out(folder: Path, tmp_path: Path) -> None:
    def path(number: int) -> Path:
        return tmp_path / f"{number:05}.tar"

    tar_sets.shards(folder, "train", path, tar_sets.number_label)
    assert_same(load_index(tmp_path, "train"), load_index(folder, "train"))
    assert "or set data.val_fraction" in refused(tmp_path, "val")
    assert own_val(str(tmp_path)) is None
    assert len(load_split(tmp_path, "val", 0.3)) > 0


def numbered(path: Path, number: int) -> dict[str, bytes]:
    return {".cls": b"%d\n" % number}


def test_classes_without_names_are_called_by_their_numbers(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_set(folder, tmp_path, numbered, lambda path: path.stem[3:])
    index, reference = load_index(root, "train"), load_index(folder, "train")
    assert index.classes == ("00000", "00001", "00002")
    assert index.labels.tolist() == reference.labels.tolist()
    assert tar_sets.contents(index) == tar_sets.contents(reference)
    assert "named by their numbers, 00000 to 00002" in caplog.text


def test_a_second_load_reads_no_tar_and_says_nothing(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_set(folder, tmp_path)
    before = load_index(root, "train")

    def fail(done: int, total: int) -> None:
        raise AssertionError("the index was built again")

    caplog.clear()
    assert_same(load_index(root, "train", report=fail), before)
    assert not caplog.records


def test_a_table_that_took_each_shard_for_a_class_is_built_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_set(folder, tmp_path)
    with monkeypatch.context() as patch:  # as earlier releases did
        patch.setattr("ixt.images.index.are_shards", lambda paths: False)
        patch.setattr("ixt.images.tars.label_beside_image", lambda names: None)
        patch.setattr("ixt.images.index.TAR_RULES", {})
        assert load_index(root, "train").classes == ("0000", "0001", "0002")
    assert_same(load_index(root, "train"), load_index(folder, "train"))


def imagenet(root: Path, name: Callable[[int], str], shard: str) -> Path:
    members = []
    for number in range(1000):
        members += [(f"{name(number)}.jpg", b"x"), (f"{name(number)}.cls", b"%d" % number)]
    return one_shard(root, *members, name=shard)


def test_numbers_are_imagenets_only_where_the_shards_say_so(tmp_path: Path) -> None:
    named = imagenet(tmp_path / "a", "{:05}".format, "imagenet1k-train-0000.tar")
    assert load_index(named, "train").classes == imagenet_synsets()
    other = imagenet(tmp_path / "b", "{:05}".format, "train-0000.tar")
    assert load_index(other, "train").classes[:2] == ("00000", "00001")
    some = tmp_path / "c"
    members = [("0.jpg", b"x"), ("0.cls", b"0"), ("1.jpg", b"x"), ("1.cls", b"1")]
    one_shard(some, *members, name="imagenet-1k-train-0000.tar")
    assert load_index(some, "train").classes == ("00000", "00001")


def test_files_of_other_classes_than_imagenets_are_refused_in_its_shards(tmp_path: Path) -> None:
    synsets = imagenet_synsets()

    def name(number: int) -> str:
        return f"{synsets[(number + 1) % 1000]}_{number}"

    root = imagenet(tmp_path, name, "imagenet1k-train-0000.tar")
    assert (
        "n01443537_0.jpg: its label gives class 0, which is n01440764 in ImageNet-1k, but its "
        "file is of n01443537"
    ) in refused(root)


def test_validation_images_have_the_classes_of_the_challenge(tmp_path: Path) -> None:
    name = "ILSVRC2012_val_00000001"  # a sea snake
    members = [(f"{name}.jpg", b"x"), (f"{name}.cls", b"65")]
    tar_sets.write_tar(tmp_path / "val" / "imagenet1k-validation-00.tar", members)
    assert load_index(tmp_path, "val").classes == ("n01751748",)
    members = [(f"{name}.jpg", b"x"), (f"{name}.cls", b"64")]
    tar_sets.write_tar(tmp_path / "val" / "imagenet1k-validation-00.tar", members)
    assert "its file is of n01751748" in refused(tmp_path, "val")


def test_a_folder_or_file_name_that_is_no_class_names_none(tmp_path: Path) -> None:
    members = []
    for number, key in enumerate(["x/n01440764_1", "x/n01443537_1", "y/n01440764_2"]):
        members += [(f"{key}.jpg", b"x"), (f"{key}.cls", b"%d" % (number % 2))]
    one_shard(tmp_path, *members, ("z.jpg", b"x"), ("z.cls", b"0"))
    assert load_index(tmp_path, "train").classes == ("00000", "00001")


A, B = ("a.jpg", b"x"), ("b.jpg", b"x")
ZERO = ("a.cls", b"0")
BAD: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "no label": ([A, ZERO, B], "0000.tar!b.jpg: has no label"),
    "json says nothing": ([A, ("a.json", b'{"caption": "x"}')], "a.jpg: has no label"),
    "a label alone": ([A, ZERO, ("b.cls", b"0")], "b.cls: has no image of the same key"),
    "two images": ([A, ("a.png", b"x"), ZERO], "a.png: has the same key as a.jpg"),
    "two images by the first dot": ([A, ZERO, ("a.mask.png", b"x")], "has the same key as a.jpg"),
    "two labels": ([A, ZERO, ("a.cls", b"1")], "a.cls: has the same key as a.cls"),
    "not a number": ([A, ("a.cls", b"cat\x1b")], "its .cls contains 'cat\\x1b', neither a class"),
    "a fraction": (
        [A, ("a.json", b'{"label": 1.5}')],
        "label of its .json contains '1.5', neither",
    ),
    "a truth": ([A, ("a.json", b'{"class": true}')], "class of its .json contains 'true', neither"),
    "negative": ([A, ("a.cls", b"-1")], "its .cls contains -1, but class numbers are from 0 to"),
    "too large": ([A, ("a.json", b'{"label": 100000}')], "contains 100000, but class numbers are"),
    "empty": ([A, ("a.cls", b"")], "its .cls contains '', neither"),
    "no JSON": ([A, ("a.json", b"{")], "a.jpg: its .json cannot be read as JSON"),
    "a list": ([A, ("a.json", b"[1]")], "its .json contains no object"),
    "two numbers": ([A, ZERO, ("a.json", b'{"label": 1}')], "give different class numbers"),
    "two numbers in json": ([A, ("a.json", b'{"label": 1, "class": 2}')], "different class num"),
    "two WordNet IDs": (
        [A, ("a.json", b'{"wnid": "n01440764", "class_name": "n01443537"}')],
        "gives two WordNet IDs (n01440764, n01443537)",
    ),
    "another order than ImageNet's": (
        [A, ("a.json", b'{"label": 1, "wnid": "n01440764"}')],
        "gives class 1 and n01440764, which is class 0 of ImageNet-1k",
    ),
    "one of a number's images is of another class": (
        [
            *(A, ("a.json", b'{"label": 0, "wnid": "n01440764"}')),
            *(B, ("b.json", b'{"label": 0, "wnid": "n01443537"}')),
        ],
        "b.jpg: its label gives class 0 and n01443537, but that of",
    ),
    "a class of two numbers": (
        [
            *(A, ("a.json", b'{"label": 0, "wnid": "n01440764"}')),
            *(B, ("b.json", b'{"label": 1, "wnid": "n01440764"}')),
        ],
        "b.jpg: its label gives class 1 and n01440764, but that of",
    ),
    "a number that is missing": (
        [A, ZERO, B, ("b.cls", b"2")],
        "no image of its split has class number 1, but some have 2",
    ),
    "some with numbers, some with names": (
        [A, ZERO, B, ("b.cls", b"n01440764")],
        "b.jpg: its label gives no class number, but those of other images do",
    ),
    "a tar": (
        [A, ZERO, ("n01440764.tar", b"x")],
        "n01440764.tar: is a tar, which no shard contains",
    ),
    "a caption": ([A, ("a.txt", b"0")], "a.jpg: has no label"),
}


@pytest.mark.parametrize("kind", BAD)
def test_labels_that_cannot_be_right_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    members, message = BAD[kind]
    assert message in refused(one_shard(tmp_path, *members))


def test_shards_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    root = one_shard(tmp_path, A, ZERO)
    shard = root / "train" / "0000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:2100])
    assert "cut off" in refused(root)
    shard.write_bytes(gzip.compress(whole))
    assert "is compressed" in refused(root)
    shard.rename(shard.with_suffix(".tar.gz"))
    assert "1 compressed tar (0000.tar.gz)" in refused(root)
    one_shard(root, A, ZERO)
    assert "1 compressed tar (0000.tar.gz)" in refused(root)
    shard.with_suffix(".tar.gz").unlink()
    one_shard(root, name="0001.tar")
    assert "0001.tar: contains no image files" in refused(root)


def test_compressed_shards_in_the_root_are_not_left_out(tmp_path: Path) -> None:
    tar_sets.write_tar(tmp_path / "x-train-0.tar", [A, ZERO])
    (tmp_path / "x-train-1.tar.gz").write_bytes(b"")
    assert "1 compressed tar (x-train-1.tar.gz)" in refused(tmp_path)


def test_shards_beside_other_layouts_are_refused(folder: Path, tmp_path: Path) -> None:
    root = one_shard(tmp_path / "a", A, ZERO)
    one_shard(root, ("n01440764_1.JPEG", b"x"), name="n01440764.tar")
    assert "n01440764.tar!n01440764_1.JPEG: has no label" in refused(root)
    root = write_set(folder, tmp_path / "b")
    shutil.copytree(folder / "train", root / "train", dirs_exist_ok=True)
    assert "contains class folders and also 3 tars" in refused(root)
    root = write_set(folder, tmp_path / "c", place="x-{split}-{number}.tar")
    shutil.copytree(folder / "train", root / "train")
    assert "contains train and also 3 tars (x-train-0.tar, " in refused(root)
    assert len(load_index(root, "val")) == len(load_index(folder, "val"))
    shutil.rmtree(root / "train")
    tar_sets.write_tar(root / "ILSVRC2012_img_train.tar", [A])
    assert "contains ILSVRC2012_img_train.tar and also 3 tars" in refused(root)


def test_extracted_shards_are_no_class_folders(folder: Path, tmp_path: Path) -> None:
    root = write_set(folder, tmp_path)
    for shard in (root / "train").iterdir():
        shutil.unpack_archive(shard, shard.with_suffix(""), filter="data")
    assert "train/0000: contains labels of several classes (.cls)" in refused(root)
    packed = pack(folder, tmp_path / "packed", PackOptions()).root
    classes = tmp_path / "classes" / "train"
    shutil.unpack_archive(packed / "train" / "train-00000.tar", classes, filter="data")
    assert_same(load_index(classes.parent, "train"), load_index(folder, "train"))


def test_a_stray_tar_does_not_stand_in_for_a_missing_split(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "val", tmp_path / "val")
    tar_sets.write_tar(tmp_path / "backup.tar", [A, ZERO])
    assert "contains no train/" in refused(tmp_path)
    assert len(load_index(tmp_path, "val")) == len(load_index(folder, "val"))


def test_shards_are_checked_and_packed_like_the_folder(folder: Path, tmp_path: Path) -> None:
    root = write_set(folder, tmp_path / "set", place="set-{long}-{number:04}.tar")
    members = [(f"n01440764_{n}.jpg", b"x" * n) for n in (0, 9)]
    labels = [("n01440764_0.cls", b"0"), ("n01440764_9.cls", b"0")]
    tar_sets.write_tar(root / "set-train-0009.tar", [*members, *labels])
    found = check_folder(root)
    assert [finding.path for finding in found.breaking] == [
        "set-train-0009.tar!n01440764_0.jpg",
        "set-train-0009.tar!n01440764_9.jpg",
    ]
    (root / "set-train-0009.tar").unlink()
    out = tmp_path / "packed"
    one, other = (pack(path, out / path.name, PackOptions()).root for path in (root, folder))
    for split in SPLITS:
        assert_same(load_index(one, split), load_index(other, split))


def test_other_tars_beside_class_folders_mean_nothing(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "train", tmp_path / "train")
    tar_sets.write_tar(tmp_path / "train.tar", [("n01440764/a.jpg", b"x")])
    (tmp_path / "val.tar").write_bytes(b"cut")
    assert_same(load_index(tmp_path, "train"), load_index(folder, "train"))
    assert own_val(str(tmp_path)) is None
    assert "contains no val/ or validation/" in refused(tmp_path, "val")


def test_one_line_says_what_was_found(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load_index(write_set(folder, tmp_path), "train")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/train: 3 WebDataset shards of train, 3 classes, which are named by the "
        "WordNet IDs in the names of its images"
    ]
