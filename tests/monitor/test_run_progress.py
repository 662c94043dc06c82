from __future__ import annotations

from collections.abc import Iterator

import pytest

from ixt.images import progress_lines
from ixt.monitor import run_progress
from ixt.monitor.run_progress import RunProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now_s = [100.0]
    for module in (progress_lines, run_progress):
        monkeypatch.setattr(module.time, "monotonic", lambda: now_s[0])
    yield now_s


def row(step: int) -> dict[str, float]:
    return {
        **{"step": step, "epoch": 0, "loss": 2.5, "images_per_s": 1234.4, "lr": 1e-3},
        **{"data_wait": 0.125, "memory_gib": 1.0},
    }


def test_the_time_left_comes_after_the_first_updates_and_without_their_warm_up(
    clock: list[float],
) -> None:
    lines: list[str] = []
    progress = RunProgress(100, 1100, lines.append)
    for step in range(101, 201):
        clock[0] += 300.0 if step == 101 else 2.0
        progress.advance()
        progress.show(row(step))
    assert lines[0] == (
        "epoch 0  loss 2.5000  1,234 images/s  step 101/1100  lr 1.00e-03  data wait 12%  1.0 GiB"
    )
    assert [line.endswith("1.0 GiB") for line in lines[:4]] == [True, True, True, False]
    assert lines[-1].endswith(
        "  step 200/1100  lr 1.00e-03  data wait 12%  1.0 GiB  ETA 30 min 00 s"
    )


def test_a_log_file_gets_no_more_than_a_line_every_five_seconds_and_the_last_one(
    clock: list[float],
) -> None:
    lines: list[str] = []
    progress = RunProgress(0, 21, lines.append)
    for step in range(1, 22):
        clock[0] += 1.0
        progress.advance()
        progress.show(row(step))
    steps = [line.split("step ")[1].split("/")[0] for line in lines]
    assert steps == ["1", "6", "11", "16", "21"]
    assert "ETA" not in lines[-1]
