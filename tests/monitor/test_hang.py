"""A process without progress writes its stacks, finds whom the others wait for, and leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ixt.distributed.signals import StopRequest
from ixt.distributed.stop_agreement import StopAgreement
from ixt.monitor import activity, hang
from ixt.monitor.hang import HangWatch, Position, culprit
from ixt.recipe import Recipe, dump_recipe

POSITION = Position(0, "node-a", 7, 30, "computing", 60.0, -1.0, "in a.py:1 (f)", waits=True)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Position, Position]]:
    """The calls of `end_process`, which would end this process."""
    calls: list[tuple[Position, Position]] = []
    monkeypatch.setattr(
        hang, "end_process", lambda own, guilty, run_dir: calls.append((own, guilty))
    )
    monkeypatch.setattr(hang, "_GATHER_S", 0.5)
    return calls


def test_the_one_with_fewest_updates_is_waited_for() -> None:
    late = replace(POSITION, rank=3, step=6, count=50, waits=True)
    assert culprit([POSITION, late, replace(POSITION, rank=1)]).rank == 3


def test_within_an_update_it_is_the_one_that_exchanges_nothing_then_the_least_far() -> None:
    busy = replace(POSITION, rank=2, count=30, waits=False)
    assert culprit([POSITION, busy]).rank == 2
    assert culprit([POSITION, replace(POSITION, rank=1, count=29)]).rank == 1


def test_without_progress_the_stacks_name_the_place(
    tmp_path: Path, left: list[tuple[Position, Position]], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def end_process(own: Position, guilty: Position, run_dir: Path) -> None:
        written.append((run_dir / "stacks-rank-0.txt").read_text())
        left.append((own, guilty))

    monkeypatch.setattr(hang, "end_process", end_process)
    with HangWatch(tmp_path, timeout_s=0.2):
        activity.update_done(3)
        activity.note("waiting for data")
        deadline_s = time.monotonic() + 10
        while not left and time.monotonic() < deadline_s:
            time.sleep(0.02)
    own, guilty = left[0]
    assert own.rank == guilty.rank == 0
    assert (own.step, own.doing) == (3, "waiting for data")
    assert "test_hang.py" in own.where and own.left_s < 0 and not own.waits
    header, _, stacks = written[0].partition("\n")
    assert json.loads(header)["rank"] == 0
    assert "test_without_progress_the_stacks_name_the_place" in stacks  # the main thread's
    assert "_consult" in stacks  # and the others'
    assert list(tmp_path.iterdir()) == []  # a run that goes on leaves none


def test_a_rank_in_the_stop_agreement_waits_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def wait() -> None:
        found.append(hang._place(threading.get_ident()))

    work = SimpleNamespace(wait=wait)
    agreement = StopAgreement(StopRequest())
    monkeypatch.setattr(agreement, "_work", work)
    agreement._wait()
    ((_, waits),) = found
    assert waits


def test_signs_of_life_keep_it_quiet(tmp_path: Path, left: list[tuple[Position, Position]]) -> None:
    with HangWatch(tmp_path, timeout_s=0.4):
        activity.update_done(1)
        for _ in range(10):
            activity.note("evaluating")
            time.sleep(0.1)
    assert left == []


def test_a_checkpoint_and_the_first_update_may_take_six_times_as_long(
    tmp_path: Path, left: list[tuple[Position, Position]]
) -> None:
    with HangWatch(tmp_path, timeout_s=0.4):
        activity.note("waiting for data")  # no update is done yet
        time.sleep(0.9)
        activity.update_done(1)
        with activity.long("writing a checkpoint"):
            time.sleep(0.9)
    assert left == []


def test_null_waits_for_ever(tmp_path: Path, left: list[tuple[Position, Position]]) -> None:
    with HangWatch(tmp_path, timeout_s=None):
        activity.update_done(1)
        time.sleep(0.3)
    assert left == [] and list(tmp_path.iterdir()) == []


def stuck(tmp_path: Path, left: list[Any], other: Position) -> list[tuple[Position, Position]]:
    """What this process does when it is stuck after step 7 and another one writes its position."""
    with HangWatch(tmp_path, timeout_s=0.3):
        activity.update_done(7)
        file = tmp_path / f"stacks-rank-{other.rank}.txt"
        deadline_s = time.monotonic() + 2
        while not left and time.monotonic() < deadline_s:
            # In one piece, as a real one is: the watch may look at any moment.
            (tmp_path / "whole").write_text(json.dumps(asdict(other)) + "\n")
            (tmp_path / "whole").rename(file)
            time.sleep(0.02)
    return left


def test_one_that_waits_for_another_leaves_because_of_it(
    tmp_path: Path, left: list[tuple[Position, Position]]
) -> None:
    own, guilty = stuck(tmp_path, left, replace(POSITION, rank=1, step=6))[0]
    assert (own.rank, guilty.rank, guilty.host) == (0, 1, "node-a")


def test_one_that_waits_for_another_that_still_may_goes_on(
    tmp_path: Path, left: list[tuple[Position, Position]]
) -> None:
    assert stuck(tmp_path, left, replace(POSITION, rank=1, step=6, left_s=100.0)) == []


def test_the_watch_ends_with_the_run(tmp_path: Path) -> None:
    with HangWatch(tmp_path, timeout_s=60):
        assert "hang watch" in {thread.name for thread in threading.enumerate()}
    assert "hang watch" not in {thread.name for thread in threading.enumerate()}


HANGING = """
import os, sys
if os.environ.get('RANK') == '1' and 'ixt' in sys.argv + sys.orig_argv:
    import time
    import ixt.training.loop
    rates = ixt.training.loop.set_learning_rate
    calls = []
    def stuck_in_a_lock(*arguments):
        calls.append(1)
        if len(calls) == 4:
            time.sleep(1000)
        rates(*arguments)
    ixt.training.loop.set_learning_rate = stuck_in_a_lock
"""


@pytest.mark.slow
def test_of_two_processes_the_one_that_hangs_is_named_and_both_write_stacks(
    tiny: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text(dump_recipe(tiny))
    (tmp_path / "sitecustomize.py").write_text(HANGING)
    command = [sys.executable, "-m", "ixt", "train", "x.yaml", "--run-dir", "run"]
    command += ["--num-processes", "2", "--set", "engine.hang_timeout_s=8"]
    start_s = time.monotonic()
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("rank ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("rank 1 on ") and ", after step 3: no progress for" in lines[0]
    assert "(stuck_in_a_lock)" in lines[0] and lines[0].endswith("stacks: run/stacks-rank-*.txt")
    stacks = [(tmp_path / "run" / f"stacks-rank-{rank}.txt").read_text() for rank in range(2)]
    assert "stuck_in_a_lock" in stacks[1] and "train_step" in stacks[0] + stacks[1]
    assert time.monotonic() - start_s < 200
