"""Packed sets: the same samples, the same bytes, whatever happens while they are written."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tar_sets
from PIL import Image
from typer.testing import CliRunner

from ixt.cli import app
from ixt.errors import DataError
from ixt.images import byte_ranges
from ixt.images.byte_ranges import WrongBytes
from ixt.images.folders import Split
from ixt.images.headers import ImageFormat
from ixt.images.hold_out import load_split
from ixt.images.index import load_index
from ixt.runs.verify import verify
from ixt.tools.pack import shard as shard_module
from ixt.tools.pack.layout import PackOptions, plan_pack
from ixt.tools.pack.pack import pack

SMALL = PackOptions(shard_bytes=12_000)  # a few images each
ODD_NAMES = ("a.b.jpg", "a_b.jpg", "a_b.png", "x/y.z/q.JPEG", "ä ö.jpg")


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tar_sets.write_folder(tmp_path_factory.mktemp("set") / "folder")
    image = (root / "train" / "n01440764" / "n01440764_77.JPEG").read_bytes()
    for name in ODD_NAMES:
        path = root / "train" / "odd.class" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    return root


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(folder, tmp_path_factory.mktemp("packed") / "out", SMALL).root


def refuse(done: int, total: int) -> None:
    raise AssertionError("headers were read")


def files(root: Path) -> dict[str, bytes]:
    found = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_packed_set_gives_the_rows_and_bytes_of_its_folder_without_a_header_scan(
    folder: Path, packed: Path, split: Split
) -> None:
    reference = load_index(folder, split)
    index = load_index(packed, split, report=refuse)
    assert len(index.shards) > 3
    for name, column in tar_sets.columns(reference).items():
        np.testing.assert_array_equal(tar_sets.columns(index)[name], column)
    assert tar_sets.contents(index) == tar_sets.contents(reference)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_rows_are_the_same_without_the_index(
    folder: Path, packed: Path, tmp_path: Path, split: Split
) -> None:
    shutil.copytree(packed, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / split / "index")
    index, reference = load_index(tmp_path / "out", split), load_index(folder, split)
    for name, column in tar_sets.columns(reference).items():
        np.testing.assert_array_equal(tar_sets.columns(index)[name], column)
    assert tar_sets.contents(index) == tar_sets.contents(reference)


def test_every_layout_packs_to_the_same_bytes(folder: Path, packed: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(folder, plain)
    shutil.rmtree(plain / "train" / "odd.class")  # class tars hold no folders
    reference = files(pack(plain, tmp_path / "reference", SMALL).root)
    for make in (tar_sets.class_tars, tar_sets.outer_tar):
        source = make(plain, tmp_path / make.__name__)
        out = pack(source, tmp_path / f"{make.__name__}.out", SMALL, num_threads=3).root
        assert files(out) == reference
    again = pack(packed, tmp_path / "again", SMALL).root
    assert {k: v for k, v in files(again).items() if k.endswith(".tar")} == {
        k: v for k, v in files(packed).items() if k.endswith(".tar")
    }


def test_webdataset_finds_image_and_label_of_each_sample(folder: Path, packed: Path) -> None:
    """The grouping of webdataset.tariterators.group_by_keys, on what tarfile lists."""
    samples: list[dict[str, Any]] = []
    for shard in sorted((packed / "train").glob("*.tar")):
        with tarfile.open(shard, "r|") as tar:
            for member in tar:
                match = re.fullmatch(r"((?:.*/|)[^.]+)[.]([^/]*)", member.name)
                assert match is not None
                key, suffix = match[1], match[2].lower()
                if not samples or samples[-1]["__key__"] != key:
                    samples.append({"__key__": key})
                assert suffix not in samples[-1]
                extracted = tar.extractfile(member)
                assert extracted is not None
                samples[-1][suffix] = extracted.read()
    index = load_index(folder, "train")
    assert len({sample["__key__"] for sample in samples}) == len(samples) == len(index)
    for sample, label, content in zip(
        samples, index.labels.tolist(), tar_sets.contents(index), strict=True
    ):
        (image,) = (value for name, value in sample.items() if name not in ("__key__", "cls"))
        assert int(sample["cls"]) == label
        assert image == content


def test_names_keep_one_dot_and_stay_apart(packed: Path) -> None:
    index = load_index(packed, "train")
    names = [path.rpartition("!")[2] for path in index.paths(range(len(index)))]
    assert names[15:] == [
        "odd.class/a_b.jpg",
        "odd.class/a_b-1.jpg",
        "odd.class/a_b-2.png",
        "odd.class/x/y.z/q.JPEG",
        "odd.class/ä ö.jpg",
    ]


def test_a_shard_ends_before_it_grows_too_large(folder: Path) -> None:
    index = load_index(folder, "train")
    plan = plan_pack(index, "train", PackOptions(shard_bytes=20_000))
    assert [start for start, _ in plan.bounds[1:]] == [end for _, end in plan.bounds[:-1]]
    assert (plan.bounds[0][0], plan.bounds[-1][1]) == (0, len(index))
    held = [int(plan.expected_bytes[start:end].sum()) for start, end in plan.bounds]
    assert all(size <= 20_000 for size, (s, e) in zip(held, plan.bounds, strict=True) if e - s > 1)
    following = [int(plan.expected_bytes[end]) for _, end in plan.bounds[:-1]]
    assert all(size + more > 20_000 for size, more in zip(held, following, strict=False))


def test_only_images_with_a_longer_side_are_made_smaller(folder: Path, tmp_path: Path) -> None:
    out = pack(folder, tmp_path / "out", PackOptions(max_side=70, quality=95))
    before, after = load_index(folder, "train"), load_index(out.root, "train", report=refuse)
    longer = before.sizes.max(axis=1)
    assert 3 < int((longer > 70).sum()) < len(before) - 3
    rows = zip(
        longer > 70,
        before.sizes.tolist(),
        after.sizes.tolist(),
        after.formats,
        zip(tar_sets.contents(before), tar_sets.contents(after), strict=True),
        strict=True,
    )
    for shrunk, (height, width), size, image_format, (old, new) in rows:
        assert (old != new) == shrunk
        if shrunk:
            scale = 70 / max(height, width)
            assert max(size) == 70
            assert size == pytest.approx([height * scale, width * scale], abs=0.5)
            assert image_format == ImageFormat.JPEG
    for content, size in zip(tar_sets.contents(after), after.sizes.tolist(), strict=True):
        with Image.open(io.BytesIO(content)) as image:
            assert [image.height, image.width] == size
    assert out.num_shrunk == int((longer > 70).sum()) + int(
        (load_index(folder, "val").sizes.max(axis=1) > 70).sum()
    )


def test_a_smaller_image_is_pillows_lanczos(folder: Path, tmp_path: Path) -> None:
    out = pack(folder, tmp_path / "out", PackOptions(max_side=32, quality=95)).root
    before, after = load_index(folder, "val"), load_index(out, "val")
    row = int(np.argmax(before.sizes.max(axis=1)))
    (path,), (content,) = before.paths([row]), tar_sets.contents(after)[row : row + 1]
    height, width = after.sizes[row].tolist()
    encoded = io.BytesIO()
    with Image.open(path) as image:
        wanted = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        wanted.save(encoded, "JPEG", quality=95)
    assert content == encoded.getvalue()


KILLED = """
import os, sys
from ixt.tools.pack.pack import pack
from ixt.tools.pack.layout import PackOptions
at = int(sys.argv[3])
def report(done, total):
    if done >= at:
        os.kill(os.getpid(), 9)
pack(sys.argv[1], sys.argv[2], PackOptions(shard_bytes=12_000), report=report)
"""


@pytest.mark.parametrize("images", [1, 8, 33])
def test_a_killed_packing_continues_and_gives_the_same_bytes(
    folder: Path, packed: Path, tmp_path: Path, images: int
) -> None:
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "out"), str(images)]
    assert subprocess.run(command, check=False).returncode == -9
    left = files(tmp_path / "out")
    whole = files(packed)
    complete = [name for name in left if name.endswith(".tar") and "/.tmp-" not in name]
    assert all(left[name] == whole[name] for name in complete)
    assert (len(complete) > 0) == (images > 1)
    assert any("/.tmp-" in name for name in left)
    half_written_index = tmp_path / "out" / "train" / f".tmp-index-{'0123456789abcdef' * 2}"
    half_written_index.mkdir()
    summary = pack(folder, tmp_path / "out", SMALL)
    assert summary.num_written == summary.num_shards - len(complete)
    assert files(tmp_path / "out") == whole
    assert not half_written_index.exists()
    assert pack(folder, tmp_path / "out", SMALL).num_written == 0


def test_a_full_disk_leaves_whole_shards_and_the_packing_continues(
    folder: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, calls = shard_module._add, []

    def full(tar: tarfile.TarFile, name: str, content: bytes) -> None:
        calls.append(name)
        if len(calls) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(tar, name, content)

    monkeypatch.setattr(shard_module, "_add", full)
    with pytest.raises(DataError) as error:
        pack(folder, tmp_path / "out", SMALL)
    assert str(error.value) == (
        f"{tmp_path}/out: no space left on device; make room and give the same command again, it "
        "continues behind the shards that are complete"
    )
    left, whole = files(tmp_path / "out"), files(packed)
    left = {name: content for name, content in left.items() if not name.endswith(".tar.json")}
    assert 0 < len(left) < len(whole)
    assert all(whole[name] == content for name, content in left.items())
    pack(folder, tmp_path / "out", SMALL)
    assert files(tmp_path / "out") == whole


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(
        DataError, match=r"out: needs about [1-9][\d.]* KiB and the disk has 1,000 \w+ left;"
    ):
        pack(folder, tmp_path / "out", SMALL)
    assert not list((tmp_path / "out").rglob("*.tar"))


def test_a_folder_with_something_else_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataError, match="is not empty and no packed set; choose a new folder"):
        pack(folder, tmp_path, SMALL)


def test_other_options_do_not_continue_a_packing(folder: Path, packed: Path) -> None:
    with pytest.raises(DataError, match=r"packed from other images or with other options"):
        pack(folder, packed, PackOptions(shard_bytes=13_000))


def test_a_packing_that_got_nowhere_gives_way_to_another(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as small:
        usage = namedtuple("usage", "total used free")
        small.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
        with pytest.raises(DataError, match="or make images smaller with --max-side"):
            pack(folder, tmp_path, PackOptions())
    assert pack(folder, tmp_path, PackOptions(max_side=32)).num_written > 0
    again = pack(folder, tmp_path, PackOptions(max_side=32))
    assert (again.num_written, again.num_shrunk > 0) == (0, True)


def test_two_packings_into_one_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    def pack_again(done: int, total: int) -> None:
        with pytest.raises(DataError, match="another process packs into it"):
            pack(folder, tmp_path / "out", SMALL)

    pack(folder, tmp_path / "out", SMALL, report=pack_again)


def test_a_foreign_tar_among_the_shards_is_named(folder: Path, tmp_path: Path) -> None:
    out = pack(folder, tmp_path / "out", SMALL).root
    tar_sets.write_tar(out / "train" / "train-00001.tar", [("a.jpg", b"x")])
    with pytest.raises(DataError, match=r"train-00001\.tar: holds other images than were packed"):
        pack(folder, out, SMALL)


def test_an_image_that_is_gone_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "set", ignore=shutil.ignore_patterns(".ixt"))
    gone = tmp_path / "set" / "train" / "n01440764" / "n01440764_77.JPEG"
    load_index(tmp_path / "set", "train")
    status = os.stat(gone.parent)
    gone.unlink()
    os.utime(gone.parent, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=re.escape(f"{gone}: no such file; fix or remove it")):
        pack(tmp_path / "set", tmp_path / "out", SMALL)


def test_an_unreadable_image_is_packed_as_it_is(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "set", ignore=shutil.ignore_patterns(".ixt"))
    bad = tmp_path / "set" / "train" / "n01440764" / "n01440764_77.JPEG"
    bad.write_bytes(b"404 not found")
    out = pack(tmp_path / "set", tmp_path / "out", PackOptions(max_side=32))
    assert out.num_unreadable == 1
    index = load_index(out.root, "train")
    (row,) = index.unreadable.tolist()
    assert tar_sets.contents(index)[row] == b"404 not found"


def test_a_damaged_shard_is_noticed_and_named(packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(packed, out)
    shard = out / "train" / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(DataError, match=rf"{shard}: cannot be read as a tar .*; it is cut off"):
        load_index(out, "train")
    shard.unlink()
    with pytest.raises(DataError, match=r"the packed set lacks 1 shard \(train-00001.tar\);"):
        load_index(out, "train")


def test_damage_between_two_parts_of_a_packing_does_not_pass_for_content(
    folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "out"), "8"]
    assert subprocess.run(command, check=False).returncode == -9
    shard = tmp_path / "out" / "train" / "train-00000.tar"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    index = load_index(pack(folder, tmp_path / "out", SMALL).root, "train")
    with pytest.raises(WrongBytes):
        tar_sets.contents(index)
    shard.unlink()
    assert pack(folder, tmp_path / "out", SMALL).num_written == 1
    byte_ranges._open_shard.cache_clear()  # a process holds the tar that it has read from
    assert tar_sets.contents(load_index(tmp_path / "out", "train")) == tar_sets.contents(
        load_index(folder, "train")
    )


def test_a_set_packed_before_there_were_checksums_gets_them_when_it_is_packed_again(
    folder: Path, packed: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(packed, tmp_path / "out"))
    for split in ("train", "val"):
        index = out / split / "index"
        meta = json.loads((index / "meta.json").read_text())
        kept = {key: meta[key] for key in ("classes", "folders", "shards")}
        (index / "meta.json").write_text(json.dumps(kept | {"format": 2}))
        (index / "crc32.npy").unlink()
    assert not load_index(out, "train").has_checksums
    summary = pack(folder, out, SMALL)
    assert summary.num_written == summary.num_shards
    assert files(out) == files(packed)


def test_the_command_line_packs_and_indexes(folder: Path, tmp_path: Path) -> None:
    run = CliRunner()
    done = run.invoke(app, ["data", "pack", str(folder), str(tmp_path / "out"), "--max-side", "70"])
    assert done.exit_code == 0, done.output
    assert re.fullmatch(
        rf"{tmp_path}/out: 38 images \(\d+ made smaller\) in 2 tars, 0\.\d MiB; "
        r"2 tars written now\n",
        done.stdout,
    )
    done = run.invoke(app, ["data", "index", str(tmp_path / "out")])
    assert done.stdout == (
        f"{tmp_path}/out/train: 20 images, 4 classes, 0 unreadable\n"
        f"{tmp_path}/out/val: 18 images, 3 classes, 0 unreadable\n"
    )


def test_a_set_without_val_is_packed_checked_and_verified_as_training_images(
    digits: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(digits / "val", plain)  # class folders alone
    runner = CliRunner()
    checked = runner.invoke(app, ["data", "check", str(plain)])
    assert checked.exit_code == 0
    assert "there is no val/, only images to train on; `ixt init`" in checked.stderr
    packed = tmp_path / "packed"
    assert runner.invoke(app, ["data", "pack", str(plain), str(packed)]).exit_code == 0
    ours, theirs = (load_split(root, "val", 0.2) for root in (plain, packed))
    assert np.array_equal(ours.labels, theirs.labels)
    assert np.array_equal(ours.sizes, theirs.sizes)
    assert [finding.name for finding in verify(packed)] == ["train"]
    shutil.rmtree(packed / "train")
    assert any(not finding.ok for finding in verify(packed))
