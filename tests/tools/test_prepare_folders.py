"""Sets that are unpacked already: a flat val/, class tars in train/, Kaggle's folders."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from small_archives import CLASSES, Tars, images_below, make_tars, tar_bytes

from ixt.errors import DataError
from ixt.images.classes import validation_labels
from ixt.images.progress_lines import report_lines
from ixt.tools.prepare.splits import prepare
from ixt.tools.prepare.task import Options, Sources


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Tars:
    return make_tars(tmp_path_factory.mktemp("tars"))


def write(folder: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def flat(tars: Tars) -> dict[str, bytes]:
    return {path[10:]: content for path, content in tars.val_images.items()}


def write_class_tars(folder: Path, tars: Tars) -> None:
    for name in CLASSES:
        inner = {p[10:]: data for p, data in tars.train_images.items() if p.startswith(name)}
        write(folder, {f"{name}.tar": tar_bytes(inner)})


def write_kaggle(folder: Path, tars: Tars) -> Path:
    """Kaggle's archive as it unpacks; returns the folder that holds train/ and val/."""
    base = folder / "ILSVRC" / "Data" / "CLS-LOC"
    write(base / "train", tars.train_images)
    write(base / "val", flat(tars))
    write(base / "test", {"ILSVRC2012_test_00000001.JPEG": b"x"})
    return base


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_flat_val_is_sorted_where_it_lies(tars: Tars, tmp_path: Path, name: str) -> None:
    write(tmp_path / name, flat(tars))
    inodes = {path.stat().st_ino for path in (tmp_path / name).iterdir()}
    (done,) = prepare(tmp_path, Sources(), None, tars.published)
    assert (done.num_written, done.is_published) == (24, True)
    assert images_below(tmp_path / name) == tars.val_images
    assert {path.stat().st_ino for path in (tmp_path / name).glob("*/*")} == inodes


def test_a_half_sorted_val_is_finished_from_its_tar(tars: Tars, tmp_path: Path) -> None:
    write(tmp_path / "val", dict(list(tars.val_images.items())[:5]))
    write(tmp_path / "val", dict(list(flat(tars).items())[5:11]))
    given = Sources(val=tars.val)
    (done,) = prepare(tmp_path, given, None, tars.published)
    assert done.num_written == 6 + 13
    assert images_below(tmp_path / "val") == tars.val_images


def test_an_incomplete_val_is_reported(tars: Tars, tmp_path: Path) -> None:
    write(tmp_path / "val", dict(list(flat(tars).items())[:3]))
    with pytest.raises(DataError, match=r"3 images in 3 classes; the whole val set has 24 in 4;"):
        prepare(tmp_path, Sources(), None, tars.published)


@pytest.mark.parametrize("delete", [False, True])
def test_class_tars_in_train_are_extracted(tars: Tars, tmp_path: Path, delete: bool) -> None:
    write_class_tars(tmp_path / "train", tars)
    some = [path for path in tars.train_images if path.startswith(CLASSES[0])][:3]
    write(tmp_path / "train", {path: tars.train_images[path] for path in some})
    options = Options(delete_class_tars=delete, num_threads=2)
    (done,) = prepare(tmp_path, Sources(), options, tars.published)
    assert (done.num_written, done.is_published) == (34 - 3, True)
    left = images_below(tmp_path / "train")
    tar_names = {f"{name}.tar" for name in CLASSES}
    assert {path: data for path, data in left.items() if path not in tar_names} == tars.train_images
    assert tar_names.isdisjoint(left) == delete
    assert not (tmp_path / ".prepare").exists()
    assert prepare(tmp_path, Sources(), options, tars.published)[0].num_written == 0


def test_a_cut_off_class_tar_is_named_and_never_deleted(tars: Tars, tmp_path: Path) -> None:
    write_class_tars(tmp_path / "train", tars)
    last = tmp_path / "train" / f"{CLASSES[-1]}.tar"
    last.write_bytes(last.read_bytes()[:3000])
    options = Options(delete_class_tars=True, num_threads=1)
    with pytest.raises(DataError, match=f"train: {CLASSES[-1]}.tar: cannot be read as a tar"):
        prepare(tmp_path, Sources(), options, tars.published)
    assert last.exists()
    assert not (tmp_path / "train" / CLASSES[-1]).exists()
    # The whole tar brings what is missing.
    (done,) = prepare(tmp_path, Sources(train=tars.train), None, tars.published)
    assert done.num_written == 10
    last.unlink()
    assert images_below(tmp_path / "train") == tars.train_images


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("how", ["link", "move", "copy"])
def test_kaggles_folders_are_brought_as_asked(
    tars: Tars, tmp_path: Path, how: str, depth: int
) -> None:
    base = write_kaggle(tmp_path / "kaggle", tars)
    given = (tmp_path / "kaggle").joinpath(*base.parts[-3:][:depth])
    inodes = {path.name: path.stat().st_ino for path in base.rglob("*.JPEG")}
    options, out = Options(transfer=how), tmp_path / "out"  # type: ignore[arg-type]
    done = prepare(out, Sources(kaggle=given), options, tars.published)
    assert [s.num_written for s in done] == [34, 24]
    assert images_below(out / "train") == tars.train_images
    assert images_below(out / "val") == tars.val_images
    same = {path.name: path.stat().st_ino == inodes[path.name] for path in out.rglob("*.JPEG")}
    assert set(same.values()) == {how != "copy"}
    left = [path for path in base.rglob("*.JPEG") if "_test_" not in path.name]
    assert len(left) == (0 if how == "move" else 58)
    assert [
        s.num_written for s in prepare(out, Sources(kaggle=given), options, tars.published)
    ] == [
        0,
        0,
    ]


@pytest.mark.parametrize("how", ["link", "move", "copy"])
def test_a_transfer_that_broke_continues(
    tars: Tars, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_kaggle(tmp_path / "kaggle", tars)
    out, options = tmp_path / "out", Options(transfer=how, num_threads=1)  # type: ignore[arg-type]
    given = Sources(kaggle=tmp_path / "kaggle")
    with monkeypatch.context() as patch:
        # Broken inside val, after train is done.
        patch.setattr("ixt.tools.prepare.splits._check_found", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(out, given, options, tars.published)
        patch.setattr("ixt.tools.prepare.splits.finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(out, given, options, tars.published)
    assert not (out / "val").exists()
    (staged,) = (out / ".prepare").rglob("ILSVRC2012_val_00000002.JPEG")
    if how == "copy":
        staged.write_bytes(staged.read_bytes()[:50])
    done = prepare(out, given, options, tars.published)
    assert [s.num_written for s in done] == [0, int(how == "copy")]
    assert images_below(out / "val") == tars.val_images


def test_a_move_that_broke_while_it_was_published_continues(
    tars: Tars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_kaggle(tmp_path / "kaggle", tars)
    out, given = tmp_path / "out", Sources(kaggle=tmp_path / "kaggle")
    with monkeypatch.context() as patch:
        patch.setattr("ixt.tools.prepare.splits.finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(out, given, Options(transfer="move"), tars.published)
    with pytest.raises(DataError, match=r"holds images that came from .*; give --kaggle"):
        prepare(out, Sources(train=tars.train), None, tars.published)
    (out / "train").mkdir()
    (out / ".prepare" / "train" / CLASSES[0]).rename(out / "train" / CLASSES[0])
    prepare(out, given, Options(transfer="move"), tars.published)
    assert images_below(out / "train") == tars.train_images
    assert images_below(out / "val") == tars.val_images


def test_another_file_system_is_refused_with_how_to_copy(tars: Tars, tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    write_kaggle(tmp_path / "kaggle", tars)
    out = shared / f"ixt-test-{os.getpid()}"
    try:
        with pytest.raises(DataError, match=r"cannot link .*, or --transfer copy"):
            prepare(out, Sources(kaggle=tmp_path / "kaggle"), None, tars.published)
    finally:
        subprocess.run(["rm", "-r", str(out)], check=True)


def test_what_is_no_kaggle_folder_is_refused(tars: Tars, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no ILSVRC/Data/CLS-LOC/train or val; unpack"):
        prepare(tmp_path / "out", Sources(kaggle=tmp_path), None, tars.published)


def test_progress_is_reported_up_to_the_last_image(
    tars: Tars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ixt.tools.prepare.extract._MB", 1)
    reports: list[tuple[str, int, int]] = []

    def progress(title: str) -> nullcontext[Callable[[int, int], None]]:
        return nullcontext(lambda done, total: reports.append((title, done, total)))

    prepare(tmp_path, Sources(train=tars.train), None, tars.published, progress=progress)
    titles, done, totals = zip(*reports, strict=True)
    assert set(titles) == {"train"}
    assert list(done) == sorted(done)
    assert done[-1] == sum(len(content) for content in tars.train_images.values())
    assert set(totals) == {tars.train.stat().st_size}


def test_the_command_prints_progress_lines_where_stderr_is_no_terminal(
    tars: Tars,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(report_lines, "__defaults__", (0.0,))
    monkeypatch.setattr("ixt.tools.prepare.extract._MB", 1)
    arguments = (str(tmp_path), "--train", str(tars.train), "--subset")
    assert ixt_status("data", "prepare", *arguments) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("train: ")
    assert all(" MB/s, " in line and line.endswith(" left") for line in lines)


def test_the_command_prepares_and_says_what_is_there(tars: Tars, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ixt", "data", "prepare", "out", "--subset"]
    command += ["--train", str(tars.train), "--val", str(tars.val)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    known = len(set(validation_labels()[:24]))
    assert first.startswith(
        f"{tmp_path}/out/train: 34 images in 4 classes, 34 copied in this run, "
    )
    assert first.endswith(" s; not the published set")
    assert second.startswith(
        f"{tmp_path}/out/val: 24 images in {known} classes, 24 copied in this run, "
    )
