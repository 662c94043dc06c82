"""Images in a bucket that is no packed set: WebDataset shards, other tars, class folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3_server
import tar_sets
from s3_server import Bucket
from typer.testing import CliRunner

from ixt.cli import app
from ixt.errors import DataError
from ixt.images import tar_bytes
from ixt.images.byte_ranges import WrongBytes, read_bytes
from ixt.images.data_digest import digest_images
from ixt.images.folders import Split
from ixt.images.hold_out import load_split, own_val
from ixt.images.image import DamagedImage, read_image
from ixt.images.index import load_index
from ixt.storage import objects, retries
from ixt.storage.filesystems import filesystem_of
from ixt.tools.check.folder import check_folder
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack
from ixt.tools.pack.to_bucket import pack_to_bucket

pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with s3_server.serve() as bucket, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        s3_server.use(bucket, patch)
        patch.setattr(retries, "POLICY", retries.RetryPolicy(attempts=4, first_wait_s=0.02))
        filesystem_of("s3://", 30.0).mkdir("layouts")
        yield bucket


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tar_sets.write_folder(tmp_path_factory.mktemp("set") / "folder")


@pytest.fixture(scope="module")
def roots(
    folder: Path, served: Bucket, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path | str, str]]:
    """The same images on the disk and in the bucket, in every layout."""
    base = tmp_path_factory.mktemp("layouts")
    shards = tar_sets.webdataset(folder, base / "shards")
    made = {
        "folder": folder,
        "tars": tar_sets.class_tars(folder, base / "tars"),
        "outer": tar_sets.outer_tar(folder, base / "outer"),
        "shards": shards,
    }
    for name, root in made.items():
        s3_server.upload(root, f"s3://layouts/{name}")
    both: dict[str, tuple[Path | str, str]] = {
        name: (root, f"s3://layouts/{name}") for name, root in made.items()
    }
    pattern = "set-{train-{0000..0002},val-{0000..0002}}.tar"
    both["pattern"] = (f"{shards}/{pattern}", f"s3://layouts/shards/{pattern}")
    return both


@pytest.mark.parametrize(
    ("layout", "window"),
    [("folder", 2**22), ("tars", 2**22), ("outer", 1000), ("shards", 700), ("pattern", 2**22)],
)
def test_a_bucket_gives_what_the_same_objects_on_a_disk_do(
    roots: dict[str, tuple[Path | str, str]],
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    window: int,
) -> None:
    monkeypatch.setattr(tar_bytes, "_WINDOW", window)
    local, url = roots[layout]
    for split in ("train", "val"):
        reference, index = load_index(local, split), load_index(url, split, rebuild=True)
        for name, column in tar_sets.columns(reference).items():
            np.testing.assert_array_equal(tar_sets.columns(index)[name], column)
        assert tar_sets.contents(index) == tar_sets.contents(reference)
        assert digest_images(index) == digest_images(reference)
        assert [path.removeprefix(str(index.folder)) for path in index.paths(range(3))] == [
            path.removeprefix(str(reference.folder)) for path in reference.paths(range(3))
        ]
    assert own_val(url) == own_val(str(local))


def test_a_tar_is_read_once_from_end_to_end(
    roots: dict[str, tuple[Path | str, str]], served: Bucket
) -> None:
    url = roots["shards"][1]
    served.reads.clear()
    load_index(url, "val", rebuild=True)
    tars = [read.partition(" ")[0] for read in served.reads]
    # One to see what they are, and then each for all that is in it.
    names = ["train-0000", "val-0000", "val-0001", "val-0002"]
    assert sorted(tars) == [f"/layouts/shards/set-{name}.tar" for name in names]


def test_the_index_is_kept_until_an_object_changes(
    folder: Path, tmp_path: Path, served: Bucket
) -> None:
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    s3_server.upload(changed, "s3://layouts/changing")
    index = load_index("s3://layouts/changing", "train")
    served.reads.clear()
    assert isinstance(load_index("s3://layouts/changing", "train").labels.base, np.memmap)
    assert served.reads == []
    (one,) = index.ranges([0])
    objects.write_object(one.path, b"x" * int(index.num_bytes[0]))
    assert load_index("s3://layouts/changing", "train").unreadable.tolist() == [0]


def test_an_object_that_changes_behind_the_index_is_named(
    roots: dict[str, tuple[Path | str, str]], served: Bucket
) -> None:
    for layout in ("folder", "shards"):
        source, other = load_index(roots[layout][1], "train").ranges([0, 1])
        before = objects.read_object(source.path)
        objects.write_object(source.path, before + b"x")
        with pytest.raises((DataError, DamagedImage), match=rf"^{source.path}.*: has "):
            read_image(source)
        objects.write_object(source.path, before)
        assert len(read_bytes(other)) == other.size


def test_an_object_of_another_length_is_wrong(
    roots: dict[str, tuple[Path | str, str]], served: Bucket
) -> None:
    (source,) = load_index(roots["folder"][1], "train").ranges([2])
    with pytest.raises(WrongBytes, match="when it was indexed; start again"):
        read_bytes(source._replace(size=7))


def test_images_to_train_on_are_held_out_where_there_are_no_others(
    folder: Path, served: Bucket, tmp_path: Path
) -> None:
    for path in (folder / "train").rglob("*.JPEG"):
        below = path.relative_to(folder / "train")
        objects.write_object(f"s3://layouts/bare/{below}", path.read_bytes())
    assert own_val("s3://layouts/bare") is None
    reference = load_split(shutil.copytree(folder / "train", tmp_path / "bare"), "val", 0.3)
    held = load_split("s3://layouts/bare", "val", 0.3)
    assert tar_sets.contents(held) == tar_sets.contents(reference)


def test_data_check_names_what_is_broken_in_a_bucket(
    folder: Path, tmp_path: Path, served: Bucket
) -> None:
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    broken = sorted((changed / "train").rglob("*.JPEG"))[3]
    broken.write_bytes(broken.read_bytes()[:-40])
    s3_server.upload(changed, "s3://layouts/broken")
    with_url, on_disk = check_folder("s3://layouts/broken"), check_folder(changed)
    assert with_url.breaking == on_disk.breaking
    assert len(with_url.breaking) == 1
    assert with_url.findings == on_disk.findings
    assert [one.num_read for one in with_url.splits] == [15, 18]


def objects_below(url: str) -> dict[str, bytes]:
    return {name: objects.read_object(f"{url}/{name}") for name in objects.list_objects(url)}


def test_a_set_packed_into_a_bucket_is_the_set_packed_on_a_disk(
    folder: Path, tmp_path: Path, served: Bucket
) -> None:
    root = pack(folder, tmp_path / "out", PackOptions(shard_bytes=12_000)).root
    words = ["data", "pack", str(folder), "--to", "s3://layouts/packed"]
    url = "s3://layouts/packed"
    assert pack_to_bucket(folder, url, PackOptions(shard_bytes=12_000)).num_written == 16
    visible = {n: data for n, data in objects_below(url).items() if "/." not in n}
    files = [path for path in Path(root).rglob("*") if path.is_file()]
    assert visible == {str(path.relative_to(root)): path.read_bytes() for path in files}
    # An upload that was cut off: the last shard is not there, nor an index.
    for name in objects.list_objects(url):
        if "index/" in name or "val-00003" in name:
            objects.delete_object(f"{url}/{name}")
    assert pack_to_bucket(folder, url, PackOptions(shard_bytes=12_000)).num_written == 1
    assert {n: data for n, data in objects_below(url).items() if "/." not in n} == visible
    assert tar_sets.contents(load_index(url, "val")) == tar_sets.contents(load_index(root, "val"))
    other = CliRunner().invoke(app, words)
    assert str(other.exception) == (
        "s3://layouts/packed: was packed from other images or with other options (see pack.json); "
        "choose a new place, or delete this one"
    )
    objects.write_object("s3://layouts/occupied/a", b"x")
    occupied = CliRunner().invoke(app, [*words[:-1], "s3://layouts/occupied"])
    assert "is not empty and no packed set" in str(occupied.exception)
    both = CliRunner().invoke(app, [*words, str(tmp_path)])
    assert (both.exit_code, "either a folder OUT or --to URL" in both.output) == (2, True)


def refused(url: str, split: Split = "train") -> str:
    with pytest.raises(DataError) as error:
        load_index(url, split)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_read_is_said_in_one_line(
    roots: dict[str, tuple[Path | str, str]], served: Bucket
) -> None:
    empty = refused("s3://layouts/nothing/here")
    assert empty.startswith(
        "s3://layouts/nothing/here: contains nothing; check the URL, or upload a set"
    )
    assert refused("s3://no-bucket/set").startswith(
        "s3://no-bucket/set: no such object or bucket ("
    )
    shards = "s3://layouts/shards/set-{train,val}-{0000..0007}.tar"
    assert refused(shards).startswith(
        "s3://layouts/shards/set-train-0003.tar: no such object, but "
    )
    objects.write_object("s3://layouts/mixed/train/a/1.jpg", b"x")
    objects.write_object("s3://layouts/mixed/train/b.tar", b"x")
    assert refused("s3://layouts/mixed") == (
        "s3://layouts/mixed/train: contains class folders and also 1 tar (b.tar); move away what "
        "is not to be read"
    )
    assert refused("s3://layouts/mixed", "val").startswith(
        "s3://layouts/mixed: contains no val/ or validation/; found 1 name (train/); put class"
    )
    objects.write_object("s3://layouts/gz/train/b.tar.gz", b"x")
    assert "neither class folders nor tars" in refused("s3://layouts/gz")
    for number in range(2):
        objects.write_object(f"s3://layouts/labels/train/a/{number}.cls", b"%d" % number)
        objects.write_object(f"s3://layouts/labels/train/a/{number}.jpg", b"x")
    assert "train/a: contains labels of several classes (.cls)" in refused("s3://layouts/labels")
    objects.write_object("s3://layouts/torn/train/a.tar", b"x" * 700)
    assert "a.tar: cannot be read as a tar (" in refused("s3://layouts/torn")
