from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tar_sets import outer_tar, write_folder

from ixt.cli.progress import progress
from ixt.images.index import load_index
from ixt.images.progress_lines import eta_text, report_lines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    yield now_s


def test_only_long_work_writes_lines_with_rate_and_time_left(clock: list[float]) -> None:
    lines: list[str] = []
    report = report_lines("reading", "images", lines.append, period_s=15)
    clock[0] += 14
    report(900, 1_000_000)
    assert lines == []
    clock[0] += 1
    report(1_500, 1_000_000)  # 100 images/s
    report(1_600, 1_000_000)
    clock[0] += 15
    report(30_000, 1_000_000)  # 1,000 images/s over both
    assert lines == [
        "reading: 0%, 1,500 of 1,000,000 images, 100 images/s, 2 h 46 min left",
        "reading: 3%, 30,000 of 1,000,000 images, 1,000 images/s, 16 min 10 s left",
    ]


def test_without_progress_the_time_left_is_unknown(clock: list[float]) -> None:
    lines: list[str] = []
    report = report_lines("reading", "images", lines.append, period_s=15)
    clock[0] += 20
    report(0, 50)
    assert lines == ["reading: 0%, 0 of 50 images, unknown left"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (-1, "0 s")]
)
def test_time_left_is_said_in_two_units(seconds: float, text: str) -> None:
    assert eta_text(seconds) == text


def test_an_index_that_takes_long_logs_its_progress_whatever_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(report_lines, "__defaults__", (0.0,))
    folder = write_folder(tmp_path / "folder")
    tars = outer_tar(folder, tmp_path / "tars")
    with caplog.at_level(logging.WARNING):
        load_index(folder, "train")
        load_index(tars, "train")
    assert any(
        message.startswith(f"{folder}/train: building its index: 100%, 15 of 15 images, ")
        and message.endswith(" images/s, 0 s left")
        for message in caplog.messages
    )
    assert any(
        message.startswith(f"{tars}: building its index: ") and "of 3 tars" in message
        for message in caplog.messages
    )


def test_commands_print_lines_where_stderr_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report_lines, "__defaults__", (0.0,))
    with progress("packing", "images") as report:
        report(5, 10)
    with progress("packing", "images", shown=False) as report:
        report(6, 10)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("packing: 50%, 5 of 10 images, ")
