"""Images in a bucket that is no packed set: WebDataset shards, other tars, class folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import s3_server
import tar_sets
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from s3_server import Bucket
from same_index import SPLITS
from typer.testing import CliRunner

from ixt.cli import app
from ixt.errors import DataError
from ixt.evaluate.testset import open_test_set
from ixt.images.byte_ranges import WrongBytes, read_bytes
from ixt.images.data_digest import digest_images
from ixt.images.folders import Split
from ixt.images.hold_out import load_split, own_val, portable_names
from ixt.images.image import DamagedImage, read_image
from ixt.images.index import load_index
from ixt.storage import objects, retries
from ixt.storage.filesystems import filesystem_of
from ixt.tools.check.folder import check_folder
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack

pytest.importorskip("s3fs")
needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs pyarrow")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with s3_server.serve() as bucket, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        s3_server.use(bucket, patch)
        patch.setattr(retries, "POLICY", retries.RetryPolicy(attempts=4, first_wait_s=0.02))
        filesystem_of("s3://", 30.0).mkdir("layouts")
        yield bucket


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
    if find_spec("pyarrow"):
        made["parquet"] = tar_sets.parquet(folder, base / "parquet")
    made["lists"] = tar_sets.lists_below(folder, base / "lists")
    for name, root in made.items():
        s3_server.upload(root, f"s3://layouts/{name}")
    both: dict[str, tuple[Path | str, str]] = {
        name: (root, f"s3://layouts/{name}") for name, root in made.items()
    }
    pattern = "set-{train-{0000..0002},val-{0000..0002}}.tar"
    both["list"] = (made["lists"] / "train.csv", "s3://layouts/lists/train.csv")
    both["pattern"] = (f"{shards}/{pattern}", f"s3://layouts/shards/{pattern}")
    return both


@pytest.mark.parametrize(
    ("layout", "window"),
    [
        *(("folder", 2**22), ("tars", 2**22), ("outer", 1000), ("shards", 700), ("pattern", 2**22)),
        *(("lists", 2**22), ("list", 2**22)),
        pytest.param("parquet", 1000, marks=needs_pyarrow),
        pytest.param("parquet", 2**22, marks=needs_pyarrow),
    ],
)
def test_a_bucket_gives_what_the_same_objects_on_a_disk_do(
    roots: dict[str, tuple[Path | str, str]],
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    window: int,
) -> None:
    monkeypatch.setattr("ixt.images.shard_bytes._REMOTE_WINDOW", window)
    local, url = roots[layout]
    for split in ("train", "val"):
        reference, index = load_index(local, split), load_index(url, split, rebuild=True)
        for name, column in tar_sets.columns(reference).items():
            np.testing.assert_array_equal(tar_sets.columns(index)[name], column)
        assert tar_sets.contents(index) == tar_sets.contents(reference)
        assert digest_images(index) == digest_images(reference)
        assert portable_names(index) == portable_names(reference)
        assert index.list_name == reference.list_name
        assert [path.removeprefix(str(index.folder)) for path in index.paths(range(3))] == [
            path.removeprefix(str(reference.folder)) for path in reference.paths(range(3))
        ]
    assert own_val(url) == own_val(str(local))
    assert tar_sets.contents(open_test_set(url)) == tar_sets.contents(reference)


def test_a_tar_is_read_once_from_end_to_end(
    roots: dict[str, tuple[Path | str, str]], served: Bucket
) -> None:
    url = roots["shards"][1]
    served.reads.clear()
    load_index(url, "val", rebuild=True)
    tars = [read.partition(" ")[0] for read in served.reads]
    # Two to see what they are, and then each for all that is in it.
    names = ["train-0000", "val-0000", "val-0000", "val-0001", "val-0002"]
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


def test_the_list_or_an_image_of_it_that_changes_makes_another_index(
    roots: dict[str, tuple[Path | str, str]], served: Bucket
) -> None:
    s3_server.upload(Path(roots["lists"][0]), "s3://layouts/listed")
    url = "s3://layouts/listed/train.csv"
    index = load_index(url, "train")
    served.reads.clear()
    assert isinstance(load_index(url, "train").labels.base, np.memmap)
    assert {read.partition(" ")[0] for read in served.reads} == {"/layouts/listed/train.csv"}
    (one,) = index.ranges([0])
    objects.write_object(one.path, b"x" * int(index.num_bytes[0]))
    assert load_index(url, "train").unreadable.tolist() == [0]
    rows = objects.read_object(url).splitlines(keepends=True)
    objects.write_object(url, b"".join(rows[:-1]))
    assert len(load_index(url, "train")) == len(index) - 1


def test_a_parquet_file_is_read_once_by_row_groups(
    tmp_path: Path, served: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    from pyarrow import parquet as pq

    rng = np.random.default_rng(0)
    contents = [rng.bytes(60_000) for _ in range(12)]
    images = [{"bytes": content, "path": f"{n}.jpg"} for n, content in enumerate(contents)]
    table = pa.table({"image": images, "label": [n % 2 for n in range(12)]})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=4, compression="none")
    s3_server.upload(tmp_path, "s3://layouts/groups")
    monkeypatch.setattr("ixt.images.shard_bytes._REMOTE_WINDOW", 1)
    served.reads.clear()
    index = load_index("s3://layouts/groups", "train")
    assert sorted(tar_sets.contents(index)) == sorted(contents)
    parts = [read.partition("bytes=")[2].split("-") for read in served.reads[: -len(index)]]
    spans = sorted((int(start), int(end)) for start, end in parts)
    groups = [(start, end) for start, end in spans if end - start > 200_000]
    assert len(groups) == 3
    assert all(one[1] < other[0] for one, other in pairwise(groups))
    read, needed = (sum(end - start for start, end in some) for some in (spans, groups))
    assert read < 1.1 * needed


@pytest.mark.parametrize("scheme", ["compressed", "damaged"])
def test_parquet_that_cannot_be_read_by_range_is_refused_or_packed(
    folder: Path, tmp_path: Path, served: Bucket, scheme: str
) -> None:
    pytest.importorskip("pyarrow")
    root = tar_sets.parquet(
        folder, tmp_path / "set", compression="snappy" if scheme == "compressed" else "none"
    )
    file = root / "data" / "train-00000-of-00002.parquet"
    url = f"s3://layouts/{scheme}"
    if scheme == "damaged":
        file.write_bytes(file.read_bytes()[:-100])
    s3_server.upload(root, url)
    if scheme == "damaged":
        assert refused(url).startswith(f"{url}/data/{file.name}: cannot be read (")
        return
    assert f"ixt data pack {url}/data OUT" in refused(url)
    options = PackOptions(shard_bytes=12_000)
    one, other = pack(url, tmp_path / "a", options), pack(folder, tmp_path / "b", options)
    indexes = [load_index(packed.root, "val") for packed in (one, other)]
    assert tar_sets.contents(indexes[0]) == tar_sets.contents(indexes[1])


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
    assert [one.num_read for one in with_url.surveys] == [15, 18]


def objects_below(url: str) -> dict[str, bytes]:
    return {name: objects.read_object(f"{url}/{name}") for name in objects.list_objects(url)}


def test_a_set_packed_into_a_bucket_is_the_set_packed_on_a_disk(
    folder: Path, tmp_path: Path, served: Bucket
) -> None:
    root = pack(folder, tmp_path / "out", PackOptions(shard_bytes=12_000)).root
    words = ["data", "pack", str(folder), "--to", "s3://layouts/packed"]
    url = "s3://layouts/packed"
    assert pack(folder, url, PackOptions(shard_bytes=12_000)).num_written == 16
    visible = {n: data for n, data in objects_below(url).items() if "/." not in n}
    files = [path for path in Path(root).rglob("*") if path.is_file()]
    assert visible == {str(path.relative_to(root)): path.read_bytes() for path in files}
    # An upload that was cut off: the last shard is not there, nor an index.
    for name in objects.list_objects(url):
        if "index/" in name or "val-00003" in name:
            objects.delete_object(f"{url}/{name}")
    assert pack(folder, url, PackOptions(shard_bytes=12_000)).num_written == 1
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
    path = CliRunner().invoke(app, [*words[:-1], str(tmp_path)])
    assert "is not the URL of a bucket; give one as s3://" in str(path.exception)


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
    assert refused(shards).startswith("s3://layouts/shards/set-train-0003.tar: no such file, but ")
    objects.write_object("s3://layouts/mixed/train/a/1.jpg", b"x")
    objects.write_object("s3://layouts/mixed/train/b.tar", b"x")
    assert refused("s3://layouts/mixed") == (
        "s3://layouts/mixed/train: contains class folders and also 1 tar (b.tar) without a folder; "
        "extract these too, or move the folders away to read the tars"
    )
    assert refused("s3://layouts/mixed", "val").startswith(
        "s3://layouts/mixed: contains no val/ or validation/; found 1 folder (train); put class"
    )
    objects.write_object("s3://layouts/gz/train/b.tar.gz", b"x")
    assert "1 compressed tar (b.tar.gz), whose images" in refused("s3://layouts/gz")
    for number in range(2):
        objects.write_object(f"s3://layouts/labels/train/a/{number}.cls", b"%d" % number)
        objects.write_object(f"s3://layouts/labels/train/a/{number}.jpg", b"x")
    assert "train/a: contains labels of several classes (.cls)" in refused("s3://layouts/labels")
    objects.write_object("s3://layouts/torn/train/a.tar", b"x" * 700)
    assert "a.tar: cannot be read as a tar (" in refused("s3://layouts/torn")


def test_parquet_of_the_hub_is_read_by_its_url(
    roots: dict[str, tuple[Path | str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The Hub's library is replaced by a folder: what is asked of it here is fsspec's interface."""
    pytest.importorskip("pyarrow")
    repository = tmp_path / "datasets" / "owner" / "name"
    shutil.copytree(roots["parquet"][0], repository, ignore=shutil.ignore_patterns(".ixt"))
    hub = DirFileSystem(str(tmp_path), LocalFileSystem())
    monkeypatch.setattr("ixt.storage.retries.filesystem_of", lambda url, timeout_s: hub)
    for split in SPLITS:
        index = load_index("hf://datasets/owner/name", split)
        assert tar_sets.contents(index) == tar_sets.contents(load_index(roots["folder"][0], split))
        assert index.place.startswith(f"hf://datasets/owner/name/data/{split}")
    assert own_val("hf://datasets/owner/name") == "validation-00000-of-00001.parquet"


def test_lists_that_lead_out_of_their_place_are_refused(tmp_path: Path, served: Bucket) -> None:
    for path in ("../a.jpg", "/a.jpg", "s3://other/a.jpg", "https://host/a.jpg"):
        objects.write_object("s3://layouts/out/list.csv", f"path,label\n{path},0\n".encode())
        assert refused("s3://layouts/out/list.csv").startswith(
            f"s3://layouts/out/list.csv:2: its path is {path}, and a list with images in a bucket "
        )
    text = "path,label\na.jpg,0\ns3://layouts/out/b/c.jpg,1\nb/d.jpg,1\n"
    objects.write_object("s3://layouts/out/list.csv", text.encode())
    objects.write_object("s3://layouts/out/b/c.jpg", b"x")
    assert refused("s3://layouts/out/list.csv").startswith(
        "s3://layouts/out/list.csv: names 2 missing files (a.jpg, b/d.jpg); paths are "
    )
    assert "s3://layouts/out/no.csv: no such file; give a list" in refused(
        "s3://layouts/out/no.csv"
    )
    local = tmp_path / "list.csv"
    local.write_text(text)
    assert refused(str(local)) == (
        f"{local}:3: its path is s3://layouts/out/b/c.jpg, and a list with images in a bucket lies "
        "there itself, in the folder that its paths are relative to; copy the list there, and give "
        "its URL"
    )
