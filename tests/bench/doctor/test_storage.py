from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from tar_sets import class_tars

from ixt.bench.doctor import storage
from ixt.bench.doctor.storage import check_data, check_run_folder, judge_reading, judge_room
from ixt.images.index import load_index

GIB = 2**30


def test_reading_is_measured_on_real_images(digits: Path) -> None:
    result = check_data(str(digits))
    assert result.status in ("ok", "warn")
    files_per_s = float(result.value.split()[0].replace(",", ""))
    assert files_per_s > 10


def test_tars_and_packed_sets_are_read_in_parts(digits: Path, tmp_path: Path) -> None:
    class_tars(digits, tmp_path)
    result = check_data(str(tmp_path))
    assert result.status in ("ok", "warn"), result
    assert float(result.value.split()[0].replace(",", "")) > 10


def test_a_bucket_is_asked_for_its_index(monkeypatch: pytest.MonkeyPatch, digits: Path) -> None:
    index = load_index(digits, "train")
    monkeypatch.setattr(storage, "load_index", lambda root, split: index)
    assert check_data("s3://bucket/set").status in ("ok", "warn")
    monkeypatch.undo()
    assert "cannot be read; give a folder, or a bucket as s3://" in check_data("gcs://b/set").value


@pytest.mark.parametrize(("folders", "said"), [((), "no such folder"), (("train",), "no images")])
def test_a_folder_without_images_is_a_failure(
    folders: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    for folder in folders:
        (root / folder).mkdir(parents=True)
    result = check_data(str(root))
    assert result.status == "fail"
    assert said in result.value


def test_slow_reads_are_noted() -> None:
    assert judge_reading(20_000, 2e9, 8).status == "ok"
    assert judge_reading(5_000, 5e8, 8).status == "warn"
    assert judge_reading(50, 5e6, 0).status == "warn"


def test_the_nearest_existing_parent_is_tested_and_left_clean(tmp_path: Path) -> None:
    result = check_run_folder(tmp_path / "runs" / "x")
    assert str(tmp_path) in result.value
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    result = check_run_folder(tmp_path / "runs")
    assert (result.status, result.fix) == ("fail", "give --run-dir a folder")


def test_a_full_disk_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=GIB, used=GIB, free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    result = check_run_folder(tmp_path)
    assert result.status == "fail"
    assert "make room" in result.fix


def test_a_folder_that_cannot_be_written_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**kwargs: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    result = check_run_folder(tmp_path)
    assert (result.status, result.value) == ("fail", f"{tmp_path}: permission denied")


@pytest.mark.parametrize(
    ("free", "inodes", "speed", "status"),
    [
        (100 * GIB, 10**6, 1e9, "ok"),
        (10 * GIB, 10**6, 1e9, "warn"),
        (1 * GIB, 10**6, 1e9, "fail"),
        (100 * GIB, 5000, 1e9, "warn"),
        (100 * GIB, 50, 1e9, "fail"),
        (100 * GIB, 10**6, 5e6, "warn"),
    ],
)
def test_room_is_judged(free: int, inodes: int, speed: float, status: str) -> None:
    assert judge_room("/x", free, inodes, speed).status == status


def test_a_file_system_that_counts_no_entries_is_not_blamed() -> None:
    assert judge_room("/x", 100 * GIB, None, 1e9).status == "ok"
