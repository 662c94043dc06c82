"""A process without progress writes its stacks, finds which one the others wait for, and leaves."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import torch

from ixt.distributed import stop_agreement
from ixt.distributed.timing import Timing
from ixt.monitor import activity, hang
from ixt.monitor.hang import HangWatch, Watch
from ixt.monitor.positions import (
    Board,
    Peer,
    Position,
    Verdict,
    answer_time_s,
    culprit,
    describe_silent,
    judge,
)
from ixt.recipe import Recipe, dump_recipe

POSITION = Position(0, "node-a", 99, 7, 30, "computing", 60.0, -1.0, "in a.py:1 (f)", waits=True)


ALONE = [Peer(socket.gethostname(), os.getpid())]
TWO = [*ALONE, Peer("node-a", 99)]


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Position, Verdict]]:
    """The calls of `Ending`, which would end this process."""
    calls: list[tuple[Position, Verdict]] = []
    monkeypatch.setattr(
        hang.Ending, "__call__", lambda _, own, verdict: calls.append((own, verdict))
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
    tmp_path: Path, left: list[tuple[Position, Verdict]], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def end(_: object, own: Position, verdict: Verdict) -> None:
        written.append((tmp_path / "stacks-rank-0.txt").read_text())
        left.append((own, verdict))

    monkeypatch.setattr(hang.Ending, "__call__", end)
    with HangWatch(tmp_path, 0.2, ALONE):
        activity.update_done(3)
        activity.note("waiting for data")
        deadline_s = time.monotonic() + 10
        while not left and time.monotonic() < deadline_s:
            time.sleep(0.02)
    own, verdict = left[0]
    assert own.rank == verdict.rank == verdict.reporter == 0
    assert (own.step, own.doing) == (3, "waiting for data")
    assert "test_hang.py" in own.where and own.left_s < 0 and not own.waits
    header, _, stacks = written[0].partition("\n")
    assert json.loads(header)["rank"] == 0
    assert "test_without_progress_the_stacks_name_the_place" in stacks  # the main thread's
    assert "_consult" in stacks  # and the others'
    assert list(tmp_path.iterdir()) == []  # a run that goes on leaves none


def test_a_disk_that_fails_does_not_end_the_watch(
    tmp_path: Path, left: list[tuple[Position, Verdict]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for place, name in ((Path, "glob"), (Board, "write")):
        monkeypatch.setattr(place, name, fail)
    with HangWatch(tmp_path, 0.2, ALONE):
        activity.update_done(3)
        deadline_s = time.monotonic() + 10
        while not left and time.monotonic() < deadline_s:
            time.sleep(0.02)
    assert left and left[0][0].step == 3


def test_a_rank_in_the_stop_agreement_waits_for_others() -> None:
    found = []

    def wait() -> None:
        found.append(hang._place(threading.get_ident()))

    exchange = object.__new__(stop_agreement._OverGloo)
    exchange._work = cast(Any, SimpleNamespace(wait=wait))
    exchange._number = torch.zeros(1, dtype=torch.int64)
    exchange.result()
    ((_, waits),) = found
    assert waits


def test_signs_of_life_keep_it_quiet(tmp_path: Path, left: list[tuple[Position, Verdict]]) -> None:
    with HangWatch(tmp_path, 0.4, ALONE):
        activity.update_done(1)
        for _ in range(10):
            activity.note("evaluating")
            time.sleep(0.1)
    assert left == []


def test_a_checkpoint_and_the_first_update_may_take_six_times_as_long(
    tmp_path: Path, left: list[tuple[Position, Verdict]]
) -> None:
    with HangWatch(tmp_path, 0.4, ALONE):
        activity.note("waiting for data")  # no update is done yet
        time.sleep(0.9)
        activity.update_done(1)
        with activity.long("writing a checkpoint"):
            time.sleep(0.9)
    assert left == []


def test_null_waits_for_ever(tmp_path: Path, left: list[tuple[Position, Verdict]]) -> None:
    with HangWatch(tmp_path, None, ALONE):
        activity.update_done(1)
        time.sleep(0.3)
    assert left == [] and list(tmp_path.iterdir()) == []


def stuck(tmp_path: Path, left: list[Any], other: Position) -> list[tuple[Position, Verdict]]:
    """What this process does when it is stuck after step 7 and another one writes its position."""
    with HangWatch(tmp_path, 0.3, TWO):
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
    tmp_path: Path, left: list[tuple[Position, Verdict]]
) -> None:
    own, verdict = stuck(tmp_path, left, replace(POSITION, rank=1, step=6))[0]
    assert (own.rank, verdict) == (0, Verdict(rank=1, reporter=1, step=6))


def test_one_that_waits_for_another_that_still_may_continues(
    tmp_path: Path, left: list[tuple[Position, Verdict]]
) -> None:
    assert stuck(tmp_path, left, replace(POSITION, rank=1, step=6, left_s=100.0)) == []


def test_one_that_does_not_answer_is_the_culprit_and_the_first_other_reports_it(
    tmp_path: Path, left: list[tuple[Position, Verdict]]
) -> None:
    with HangWatch(tmp_path, 0.3, TWO):
        activity.update_done(7)
        deadline_s = time.monotonic() + 5
        while not left and time.monotonic() < deadline_s:
            time.sleep(0.02)
    assert left[0][1] == Verdict(rank=1, reporter=0, step=7)


def test_a_silent_one_is_to_blame_whatever_the_others_may_and_only_when_time_is_up() -> None:
    writes = replace(POSITION, left_s=100.0, waits=False)
    waits = replace(POSITION, rank=2, left_s=-1.0)
    assert judge([writes, waits], 3) == Verdict(rank=1, reporter=0, step=7)
    assert judge([writes, replace(waits, left_s=1.0)], 3) is None
    assert judge([writes, waits, replace(waits, rank=1)], 3) is None  # the one that writes may
    assert judge([replace(writes, left_s=-1.0), replace(waits, rank=1)], 2) == Verdict(
        rank=0, reporter=0, step=7
    )


def test_what_a_stopped_one_wrote_before_is_no_answer(tmp_path: Path) -> None:
    now_s = 0.0
    verdicts: list[Any] = []

    def wait(event: threading.Event, duration_s: float | None) -> bool:
        nonlocal now_s
        now_s += duration_s or 0.0
        return bool(verdicts) or now_s > 100

    def position(stopped_s: float) -> Position:
        count = activity.last().count
        return replace(POSITION, host=TWO[0].host, pid=TWO[0].pid, count=count, left_s=5 - now_s)

    board = Board(tmp_path, 1, TWO)
    board.write(replace(POSITION, rank=1, waits=False, left_s=50.0))  # it writes a checkpoint
    Watch(
        Board(tmp_path, 0, TWO),
        TWO,
        5,
        position,
        lambda own, verdict: verdicts.append(verdict),
        lambda _: None,
        Timing(now=lambda: now_s, wait=wait),
    ).run()
    assert verdicts == [Verdict(rank=1, reporter=0, step=7)]
    assert now_s < 20


def test_what_another_run_left_is_no_answer(tmp_path: Path) -> None:
    board = Board(tmp_path, 0, TWO)
    board.write(replace(POSITION, rank=1))
    assert list(board.read()) == [1]
    board.write(replace(POSITION, rank=1, pid=98))
    assert board.read() == {}
    board.write(replace(POSITION, rank=2))
    assert board.read() == {}


def test_on_one_machine_an_answer_comes_at_once_and_a_file_server_may_take_a_while() -> None:
    assert answer_time_s([Peer("a", 1), Peer("a", 2)], 600, 5) == 5
    assert answer_time_s([Peer("a", 1), Peer("b", 2)], 600, 5) == 120
    assert answer_time_s([Peer("a", 1), Peer("b", 2)], 8, 5) == 5


def test_the_time_in_which_a_process_was_stopped_is_not_its_own(tmp_path: Path) -> None:
    now_s = 0.0
    stops = [1.0, 100.0, 1.0, 1.0]  # lengths of its ticks
    asked: list[float] = []

    def wait(event: threading.Event, duration_s: float | None) -> bool:
        nonlocal now_s
        now_s += stops.pop(0)
        return not stops

    def position(stopped_s: float) -> Position:
        asked.append(stopped_s)
        return replace(POSITION, left_s=1.0)

    timing = Timing(now=lambda: now_s, wait=wait)
    board = Board(tmp_path, 0, TWO)
    Watch(board, TWO, 600, position, lambda *_: None, lambda _: None, timing).run()
    assert asked == [0.0, 99.0, 99.0]
    activity.note("computing")
    stops = [1.0, 1.0]
    Watch(board, TWO, 600, position, lambda *_: None, lambda _: None, timing).run()
    assert asked[3:] == [0.0]


def test_the_line_about_a_stopped_process_says_so() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        line = describe_silent(Peer("node-a", process.pid), "node-a")
        process.kill()
    assert line == (
        f"process {process.pid} does not answer: it is stopped (SIGSTOP), "
        "and the others wait for it"
    )
    elsewhere = describe_silent(Peer("node-b", 1), "node-a")
    assert "it is stopped, or its machine or its access to the run folder hangs" in elsewhere


def test_the_watch_ends_with_the_run(tmp_path: Path) -> None:
    with HangWatch(tmp_path, 60, ALONE):
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
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_process_is_named_with_its_number_soon_after_the_time_out(
    tiny: Recipe, tmp_path: Path, rank: int
) -> None:
    changed = tiny.with_(schedule={"epochs": 500}, run={"checkpoint_every_steps": 2})
    (tmp_path / "x.yaml").write_text(dump_recipe(changed))
    command = [sys.executable, "-m", "ixt", "train", "x.yaml", "--run-dir", "run"]
    command += ["--num-processes", "2", "--set", "engine.hang_timeout_s=8"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            while not (tmp_path / "run" / "checkpoints").exists():
                assert launcher.poll() is None
                time.sleep(0.1)
            ranks = psutil.Process(launcher.pid).children()
            stopped = next(one for one in ranks if one.environ()["RANK"] == str(rank))
            stopped.suspend()
            start_s = time.monotonic()
            _, said = launcher.communicate(timeout=100)
        finally:
            launcher.kill()
    assert time.monotonic() - start_s < 25
    assert launcher.returncode == 1 and not stopped.is_running()
    (line,) = [line for line in said.splitlines() if "does not answer" in line]
    assert line.startswith(f"rank {rank} on {socket.gethostname()}, after step ")
    assert f": process {stopped.pid} does not answer: it is stopped (SIGSTOP), and" in line


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
