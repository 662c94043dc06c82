from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import odd_images
import pytest
import tar_sets
import torch
import torchvision.io
from PIL import Image
from small_archives import make_tars

from ixt.errors import DataError
from ixt.images.byte_ranges import ByteRange, read_bytes
from ixt.images.index import load_index
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.plan.crop import eval_crops
from ixt.tools.check import facts as facts_module
from ixt.tools.check.folder import CheckReport, check_folder
from ixt.tools.check.quarantine import restore
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack
from ixt.tools.stats import split_stats

_RGB = torchvision.io.ImageReadMode.RGB.value


def kinds_by_path(report: CheckReport) -> dict[str, set[str]]:
    kinds = defaultdict(set)
    for finding in report.findings:
        kinds[finding.path].add(finding.kind.value)
    return dict(kinds)


def tree(root: Path) -> dict[str, bytes]:
    """Content of each visible file and link."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".ixt" not in path.parts
    }


@pytest.fixture
def sound(photos: dict[str, str], tmp_path: Path) -> Path:
    """A folder without a fault: two classes, two splits, no picture twice."""
    root = tmp_path / "data"
    names = ["landscape", "portrait", "progressive", "wide"]
    folders = [root / split / name for split in ("train", "val") for name in ("a", "b")]
    for folder, name in zip(folders, names, strict=True):
        folder.mkdir(parents=True)
        shutil.copy(photos[name], folder / f"{name}.JPEG")
    return root


@pytest.fixture
def broken(sound: Path, damaged_files: dict[str, tuple[str, str]]) -> Path:
    """The sound folder with damaged files among its training images."""
    for kind in ("empty", "text", "half", "no_end", "header_only"):
        shutil.copy(damaged_files[kind][0], sound / "train" / "b" / f"{kind}.JPEG")
    shutil.copy(damaged_files["progressive"][0], sound / "train" / "b" / "late.JPEG")
    return sound


def mutants(count: int) -> list[bytes]:
    """JPEG files of several kinds with a byte changed, a stretch overwritten, or cut off."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).resize((180, 120))
    sources = [
        odd_images.jpeg_bytes(photo, quality=88),
        odd_images.jpeg_bytes(photo, progressive=True),
        odd_images.jpeg_bytes(photo, restart_marker_rows=2),
        odd_images.jpeg_bytes(photo.convert("L")),
        odd_images.jpeg_bytes(photo.convert("CMYK"), subsampling=0),
    ]
    made = []
    for number in range(count):
        data = bytearray(sources[number % len(sources)])
        at = int(rng.integers(2, len(data) - 70))
        match number // len(sources) % 4:
            case 0:
                data[at] ^= int(rng.integers(1, 256))
            case 1:
                data[at : at + 64] = rng.bytes(64)
            case 2:
                data[at : at + 64] = bytes(64)
            case 3:
                del data[at:]
        made.append(bytes(data))
    return made


@pytest.fixture(scope="module")
def mutant_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 JPEG files that were tampered with, in one class."""
    root = tmp_path_factory.mktemp("mutants")
    (root / "train" / "x").mkdir(parents=True)
    for number, data in enumerate(mutants(400)):
        (root / "train" / "x" / f"{number:03}.JPEG").write_bytes(data)
    return root


def test_it_finds_exactly_what_a_full_decode_of_each_file_alone_meets(
    mutant_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = sorted((mutant_folder / "train" / "x").iterdir())
    expected = {f"train/x/{path.name}": alone(path, capfd) for path in paths}
    report = check_folder(mutant_folder, splits=("train",), num_threads=4)
    kinds = kinds_by_path(report)
    severe = {"truncated", "undecodable", "not an image"}
    found = {
        path: "broken" if kinds.get(path, set()) & severe
        else "corrupt" if "corrupt" in kinds.get(path, set())
        else "sound"
        for path in expected
    }  # fmt: skip
    assert found == expected
    assert {word: list(expected.values()).count(word) > 20 for word in set(expected.values())} == {
        "broken": True,
        "corrupt": True,
        "sound": True,
    }


def test_what_breaks_training_is_what_the_decoder_cannot_take(mutant_folder: Path) -> None:
    index = load_index(mutant_folder, "train")
    paths = index.paths(range(len(index)))
    decoder = make_decoder(
        "torch", device=torch.device("cpu"), num_threads=2, prefetch=1, on_error="skip"
    )
    crops = eval_crops(np.maximum(index.sizes, 1), size=16)
    (decoded,) = decoder.stream([odd_images.request_of(paths, crops)])
    decoder.close()
    breaking = {finding.path for finding in check_folder(mutant_folder, splits=("train",)).breaking}
    assert breaking == {f"train/x/{Path(paths[row]).name}" for row in decoded.damaged}
    assert len(breaking) > 100


def alone(path: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Decode all of a file: whether Pillow refuses it, libjpeg complains, or nothing happens."""
    capfd.readouterr()
    try:
        data = torch.from_numpy(np.fromfile(path, np.uint8))
        torch.ops.image.decode_jpeg(data, _RGB, False)
        return "corrupt" if capfd.readouterr().err else "sound"
    except RuntimeError:
        pass
    try:
        with Image.open(path) as image:
            image.convert("RGB")
    except OSError:
        return "broken"
    return "corrupt"


def test_a_sound_folder_is_clean(sound: Path) -> None:
    report = check_folder(sound)
    assert report.findings == ()
    assert report.breaking == ()
    assert [(s.index.name, len(s.index), s.num_read) for s in report.surveys] == [
        ("train", 2, 2),
        ("val", 2, 2),
    ]


def test_each_fault_and_oddity_has_its_name(broken: Path, photos: dict[str, str]) -> None:
    for kind in ("grey", "cmyk", "rotated", "png", "webp", "gif"):
        shutil.copy(photos[kind], broken / "train" / "a" / f"{kind}.JPEG")
    Image.open(photos["landscape"]).resize((500, 20)).save(broken / "val" / "b" / "low.png")
    shutil.copy(photos["landscape"], broken / "val" / "b" / "cat.heic")
    report = check_folder(broken)
    assert kinds_by_path(report) == {
        "train/b/empty.JPEG": {"empty"},
        "train/b/half.JPEG": {"truncated"},
        "train/b/header_only.JPEG": {"truncated"},
        "train/b/late.JPEG": {"truncated"},
        "train/b/no_end.JPEG": {"truncated"},
        "train/b/text.JPEG": {"not an image"},
        "train/a/cmyk.JPEG": {"CMYK"},
        "train/a/grey.JPEG": {"grey"},
        "train/a/rotated.JPEG": {"EXIF-rotated"},
        "train/a/gif.JPEG": {"mistyped"},
        "train/a/png.JPEG": {"mistyped"},
        "train/a/webp.JPEG": {"mistyped"},
        "val/b/low.png": {"tiny"},
        "val/b/cat.heic": {"ignored"},
    }
    assert {finding.path for finding in report.breaking} == {
        f"train/b/{name}.JPEG"
        for name in ("empty", "half", "header_only", "late", "no_end", "text")
    }


def test_copies_are_distinguished_by_where_they_lie(sound: Path) -> None:
    a, b = sound / "train" / "a", sound / "train" / "b"
    shutil.copy(a / "landscape.JPEG", a / "again.JPEG")
    shutil.copy(b / "portrait.JPEG", a / "portrait.JPEG")
    shutil.copy(sound / "val" / "a" / "progressive.JPEG", a / "seen.JPEG")
    report = check_folder(sound)
    assert kinds_by_path(report) == {
        "train/a/landscape.JPEG": {"duplicate, same class"},
        "train/a/again.JPEG": {"duplicate, same class"},
        "train/a/portrait.JPEG": {"duplicate, other class"},
        "train/b/portrait.JPEG": {"duplicate, other class"},
        "train/a/seen.JPEG": {"in train and val"},
        "val/a/progressive.JPEG": {"in train and val"},
    }
    assert report.breaking == ()
    (seen,) = [f for f in report.findings if f.path == "train/a/seen.JPEG"]
    assert seen.others == ("val/a/progressive.JPEG",)


def test_a_class_that_only_val_has_breaks_training(sound: Path) -> None:
    (sound / "val" / "b").rename(sound / "val" / "c")
    (finding,) = check_folder(sound).breaking
    assert (finding.kind.value, finding.path) == ("class only in val", "val/c")


def test_a_file_replaced_behind_the_index_is_outdated(sound: Path) -> None:
    load_index(sound, "train")
    path = sound / "train" / "a" / "landscape.JPEG"
    with Image.open(path) as image:
        smaller = image.resize((250, 188))
    smaller.save(path)
    (finding,) = check_folder(sound, splits=("train",)).breaking
    assert (finding.kind.value, finding.detail) == (
        "index outdated",
        "188 x 250, in the index 375 x 500",
    )


def test_only_changed_files_are_read_again(broken: Path) -> None:
    first = check_folder(broken)
    again = check_folder(broken)
    assert [split.num_read for split in again.surveys] == [0, 0]
    assert again.findings == first.findings
    path = broken / "train" / "b" / "half.JPEG"
    status = path.stat()
    mended = (broken / "train" / "a" / "landscape.JPEG").read_bytes()
    path.with_name("new").write_bytes(mended[: status.st_size].ljust(status.st_size, b"\0"))
    os.utime(path.with_name("new"), ns=(status.st_atime_ns, status.st_mtime_ns))
    path.with_name("new").rename(path)  # same length and time, another inode
    assert [split.num_read for split in check_folder(broken).surveys] == [1, 0]


def test_an_interrupted_check_continues_where_it_stopped(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    shutil.copytree(digits, root, ignore=shutil.ignore_patterns(".ixt"))

    def interrupt(done: int, total: int) -> None:
        if done >= 640:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_folder(
            root, splits=("train",), progress=lambda name: nullcontext(interrupt), num_threads=1
        )
    (split,) = check_folder(root, splits=("train",)).surveys
    assert split.num_read == 1437 - 640


def test_a_file_without_permission_is_asked_again(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(source: ByteRange) -> object:
        if source.path.endswith("wide.JPEG"):
            raise PermissionError(13, "Permission denied")
        return read_bytes(source)

    monkeypatch.setattr(facts_module, "read_bytes", deny)
    (finding,) = check_folder(sound).breaking
    assert (finding.kind.value, finding.detail) == ("unreadable", "permission denied")
    monkeypatch.undo()
    assert check_folder(sound).findings == ()


def test_what_is_no_regular_file_is_not_waited_for(sound: Path) -> None:
    os.mkfifo(sound / "train" / "a" / "pipe.JPEG")
    (sound / "train" / "b" / "gone.JPEG").symlink_to("nowhere.JPEG")
    breaking = check_folder(sound).breaking
    assert [(f.kind.value, f.path, f.detail) for f in breaking] == [
        ("unreadable", "train/a/pipe.JPEG", "not a regular file"),
        ("unreadable", "train/b/gone.JPEG", "no such file or directory"),
    ]


def test_what_cannot_be_read_stays_where_it_is_and_no_verdict_says_otherwise(
    sound: Path, capsys: pytest.CaptureFixture[str], ixt_status: Callable[..., int]
) -> None:
    (sound / "train" / "b" / "gone.JPEG").symlink_to("nowhere.JPEG")
    assert check_folder(sound, fix="quarantine").moved == ()
    ixt_status("data", "check", sound)
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 finding breaks training; data.on_error: skip trains without such images" in printed
    assert "--fix" not in printed


def test_nothing_is_moved_unless_asked_and_everything_comes_back(broken: Path) -> None:
    before = tree(broken)
    check_folder(broken)
    assert tree(broken) == before
    report = check_folder(broken, fix="quarantine")
    assert len(report.moved) == 6
    assert report.breaking == ()
    held = broken / ".quarantine" / "train" / "b" / "half.JPEG"
    assert held.read_bytes() == before["train/b/half.JPEG"]
    assert check_folder(broken).breaking == ()
    assert len(restore(broken)) == 6
    assert tree(broken) == before
    assert not (broken / ".quarantine").exists()


def test_a_class_that_quarantine_empties_is_named(broken: Path) -> None:
    (broken / "train" / "b" / "portrait.JPEG").unlink()
    (finding,) = check_folder(broken, fix="quarantine").breaking
    assert (finding.kind.value, finding.path) == ("class emptied", "train/b")


def test_quarantine_keeps_two_files_of_one_name(broken: Path) -> None:
    path = broken / "train" / "b" / "empty.JPEG"
    check_folder(broken, fix="quarantine")
    path.write_bytes(b"rubbish")
    assert check_folder(broken, fix="quarantine").moved == (
        ("train/b/empty.JPEG", ".quarantine/train/b/empty.JPEG.1"),
    )
    with pytest.raises(DataError, match="another file has taken its place"):
        path.touch()
        restore(broken)


def test_strict_takes_warnings_for_damage(sound: Path) -> None:
    path = sound / "train" / "a" / "landscape.JPEG"
    data = bytearray(path.read_bytes())
    data[20000:20064] = bytes(64)
    path.write_bytes(data)
    lenient, strict = check_folder(sound), check_folder(sound, strict=True)
    assert kinds_by_path(lenient) == kinds_by_path(strict) == {
        "train/a/landscape.JPEG": {"corrupt"}
    }  # fmt: skip
    assert (len(lenient.breaking), len(strict.breaking)) == (0, 1)
    assert len(check_folder(sound, fix="quarantine").moved) == 0
    shutil.copy(sound / "val" / "a" / "progressive.JPEG", path.with_name("other.JPEG"))
    assert len(check_folder(sound, fix="quarantine", strict=True).moved) == 1


def test_the_command_reports_and_its_status_says_whether_training_breaks(
    broken: Path,
    tmp_path: Path,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = tmp_path / "out" / "check.json"
    assert ixt_status("data", "check", str(broken), "--results", str(results)) == 1
    printed = capsys.readouterr().out
    assert (
        "6 findings break training; --fix quarantine moves them to .quarantine/; "
        "data.on_error: skip trains without such images" in printed
    )
    assert "train/b/text.JPEG" in printed
    row = json.loads(results.read_text())
    assert row["clean"] is False
    assert row["counts"]["truncated"] == {"severity": "breaks training", "num_files": 4}
    assert ixt_status("data", "check", str(broken), "--fix", "quarantine") == 0
    assert "6 files moved to" in capsys.readouterr().out.replace("\n", " ")
    assert ixt_status("data", "check", str(broken), "--fix", "restore") == 0
    assert ixt_status("data", "check", str(broken / "nowhere")) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("layout", [tar_sets.class_tars, tar_sets.outer_tar])
def test_images_in_tars_are_checked_as_those_in_folders(
    broken: Path, tmp_path: Path, layout: Callable[[Path, Path], Path]
) -> None:
    folder = check_folder(broken)
    report = check_folder(layout(broken, tmp_path / "tars"))
    shown = {
        path.replace("ILSVRC2012_img_train.tar!", "train/").replace(".tar!", "/"): kinds
        for path, kinds in kinds_by_path(report).items()
    }
    assert shown == kinds_by_path(folder)
    assert [len(report.breaking), report.surveys[0].num_read] == [6, 8]
    again = check_folder(tmp_path / "tars")
    assert [split.num_read for split in again.surveys] == [0, 0]
    assert again.findings == report.findings


def test_the_two_downloaded_tars_are_remembered_apart(tmp_path: Path) -> None:
    make_tars(tmp_path)
    first, again = check_folder(tmp_path), check_folder(tmp_path)
    assert [split.num_read for split in first.surveys] == [34, 24]
    assert [split.num_read for split in again.surveys] == [0, 0]
    names = ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"]
    assert [split.index.name for split in again.surveys] == names
    stats = split_stats(load_index(tmp_path, "val"), split="val")
    assert (stats.folder, stats.num_images) == (names[1], 24)
    (tmp_path / names[1]).unlink()
    with pytest.raises(DataError) as caught:
        check_folder(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: contains neither val/ nor {names[1]}; put it beside the other tar"
    )


def test_damage_in_a_packed_set_is_named_by_shard_and_member(sound: Path, tmp_path: Path) -> None:
    root = pack(sound, tmp_path / "packed", PackOptions()).root
    index = load_index(root, "train")
    (source,) = index.ranges([1])
    with open(source.path, "r+b") as shard:
        shard.seek(source.offset + 2000)
        shard.write(bytes(8000))
    (finding,) = check_folder(root).breaking
    name = f"train/{Path(source.path).name}!{source.member}"
    assert (finding.kind.value, finding.path) == ("altered", name)


def flip_within(path: Path, place: int) -> None:
    """Flip a bit, and leave length and modification time as a failing disk would."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_damaged_index_of_a_packed_set_is_a_finding(sound: Path, tmp_path: Path) -> None:
    root = pack(sound, tmp_path / "packed", PackOptions()).root
    flip_within(root / "val" / "index" / "labels.npy", 130)
    (finding,) = check_folder(root).breaking
    assert (finding.kind.value, finding.path) == ("index damaged", "val/index")
    assert finding.detail == "labels.npy is damaged (its SHA-256 is not that in meta.json)"


def test_two_altered_images_of_a_packed_set_are_no_duplicates(sound: Path, tmp_path: Path) -> None:
    root = pack(sound, tmp_path / "packed", PackOptions()).root
    for source in load_index(root, "train").ranges([0, 1]):
        flip_within(Path(source.path), source.offset + 3000)
    assert [finding.kind.value for finding in check_folder(root).findings] == ["altered"] * 2


@pytest.mark.parametrize("layout", ["folder", "packed"])
def test_a_bit_that_flips_after_a_check_shows_beside_a_manifest(
    sound: Path, tmp_path: Path, layout: str
) -> None:
    root = sound if layout == "folder" else pack(sound, tmp_path / "packed", PackOptions()).root
    manifest = tmp_path / "sums.txt"
    first = check_folder(root, manifest=manifest)
    assert first.manifest == f"{manifest}: 4 checksums written; give it again to compare with them"
    again = check_folder(root, manifest=manifest)
    assert (again.findings, again.manifest) == ((), f"{manifest}: 4 checksums compared")
    assert [split.num_read for split in again.surveys] == [2, 2]
    (source,) = load_index(root, "train").ranges([0])
    flip_within(Path(source.path), source.offset + 5000)
    assert check_folder(root).findings == ()  # nothing says that the file has changed
    (finding,) = check_folder(root, manifest=manifest).breaking
    found = source.name.removeprefix(f"{root}/")
    kind = "changed" if layout == "folder" else "altered"
    assert (finding.kind.value, finding.path) == (kind, found)


def test_a_manifest_is_one_of_sha256sum(sound: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"new\nline\\ \xff.JPEG")
    shutil.copy(sound / "train" / "b" / "portrait.JPEG", sound / "train" / "b" / odd)
    manifest = tmp_path / "sums.txt"
    check_folder(sound, manifest=manifest)
    command = ["sha256sum", "--check", "--strict", "--quiet", str(manifest)]
    assert subprocess.run(command, cwd=sound, check=False).returncode == 0
    paths = sorted(str(path.relative_to(sound)) for path in sound.glob("[tv]*/*/*"))
    written = subprocess.run(["sha256sum", *paths], cwd=sound, capture_output=True, check=True)
    assert sorted(written.stdout.splitlines()) == sorted(manifest.read_bytes().splitlines())
    manifest.write_bytes(written.stdout)
    kinds = {finding.kind.value for finding in check_folder(sound, manifest=manifest).findings}
    assert kinds == {"duplicate, same class"}


def test_files_that_come_and_go_show_beside_a_manifest(sound: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "sums.txt"
    check_folder(sound, manifest=manifest)
    path = sound / "val" / "a" / "progressive.JPEG"
    path.rename(path.with_name("renamed.JPEG"))
    report = check_folder(sound, manifest=manifest)
    assert kinds_by_path(report) == {
        "val/a/progressive.JPEG": {"missing"},
        "val/a/renamed.JPEG": {"not in manifest"},
    }
    assert [finding.kind.value for finding in report.breaking] == ["missing"]
    assert check_folder(sound, splits=("train",), manifest=manifest).findings == ()


def test_what_is_no_manifest_is_refused_before_anything_is_read(
    sound: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "notes.txt"
    manifest.write_text("buy milk\n")
    with pytest.raises(DataError) as error:
        check_folder(sound, manifest=manifest)
    assert str(error.value) == (
        f"{manifest}:1: is not a SHA-256, two spaces and a path; give a list that ixt data check "
        "--manifest or sha256sum wrote, or a new name"
    )
    assert manifest.read_text() == "buy milk\n"


def test_a_damaged_memory_of_the_last_check_is_written_anew(sound: Path) -> None:
    check_folder(sound)
    file = sound / ".ixt" / "check-train.npz"
    content = file.read_bytes()
    for damaged in (
        content.replace(b"'shape': (", b"'shape'\x00 ("),
        content.replace(b"'fortran_order'", b"'fortran_orde\x00'"),
        content[: len(content) // 2],
    ):
        file.write_bytes(damaged)
        assert [split.num_read for split in check_folder(sound).surveys] == [2, 0]


def test_neither_tars_nor_buckets_are_taken_apart(broken: Path, tmp_path: Path) -> None:
    tars = tar_sets.class_tars(broken, tmp_path / "tars")
    before = tree(tars)
    with pytest.raises(DataError, match=r"--fix quarantine: the images of .*train lie in tars"):
        check_folder(tars, fix="quarantine")
    assert tree(tars) == before
    with pytest.raises(
        DataError, match="--fix quarantine: the images of s3://sets/x lie in a buck"
    ):
        check_folder("s3://sets/x", fix="quarantine")
