"""Signals and deaths, on whole runs of two processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ixt.distributed.launch import rank_file
from ixt.distributed.signals import STOP_SIGNALS
from ixt.recipe import Recipe, dump_recipe, parse_recipe
from ixt.training.loop import train

pytestmark = pytest.mark.slow

TWO = ("--num-processes", "2")


@pytest.fixture(autouse=True)
def _a_terminal_that_can_close() -> Iterator[None]:
    """Whoever runs the tests under nohup has runs that ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def recipe(tiny_sections: dict[str, dict[str, object]]) -> Recipe:
    """A hundred small updates."""
    changes: dict[str, dict[str, object]] = {
        "schedule": {"epochs": 20},
        "eval": {"every_epochs": 100},
        "run": {"log_every_steps": 1, "checkpoint_every_steps": 2},
    }
    return parse_recipe(
        {name: {**section, **changes.get(name, {})} for name, section in tiny_sections.items()}
    )


class Session:
    """A run in the background, which has come to its sixth step."""

    def __init__(self, folder: Path, recipe: Recipe, *command: str) -> None:
        (folder / "x.yaml").write_text(dump_recipe(recipe))
        self.run = folder / "run"
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.agent = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        deadline_s = time.monotonic() + 120
        while len(ledger(self.run)) < 6:
            if time.monotonic() > deadline_s or self.agent.poll() is not None:
                raise TimeoutError(self._log.read_text())
            time.sleep(0.1)
        workers = psutil.Process(self.agent.pid).children()
        self.workers = sorted(workers, key=lambda worker: int(worker.environ()["RANK"]))

    def end(self, limit_s: float = 60) -> tuple[int, list[str]]:
        """The exit status, and the lines that tell of ends and starts."""
        status = self.agent.wait(limit_s)
        lines = self.said()
        told = re.compile(r"stopped |resumed |rank \d+ (?!.* slows the others down)")
        return status, [line for line in lines if told.match(line)]

    def said(self) -> list[str]:
        """What was printed so far."""
        return self._log.read_text().splitlines()


def ledger(run: Path) -> list[object]:
    file = run / "ledger.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def ixt(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "ixt", *words)


TRAIN = ixt("train", "x.yaml", "--run-dir", "run", *TWO)


@pytest.fixture
def session(tmp_path: Path, recipe: Recipe) -> Iterator[Session]:
    session = Session(tmp_path, recipe, *TRAIN)
    yield session
    session.agent.kill()
    for worker in session.workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()


def test_a_signal_to_one_rank_saves_and_another_number_of_processes_resumes(
    session: Session, recipe: Recipe, tmp_path: Path
) -> None:
    session.workers[1].send_signal(signal.SIGTERM)
    status, (line,) = session.end()
    assert status == 143
    told = re.fullmatch(r"stopped after step \d+, saved in run; continue with: ixt (.+)", line)
    assert told is not None and told[1] == "resume run --num-processes 2"
    done = subprocess.run(ixt("resume", "run"), cwd=tmp_path, check=False)
    assert done.returncode == 0
    train(recipe, tmp_path / "unbroken")
    assert ledger(tmp_path / "run") == ledger(tmp_path / "unbroken")


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_to_the_agent_reaches_the_ranks(session: Session, number: signal.Signals) -> None:
    session.agent.send_signal(number)
    status, (line,) = session.end()
    assert status == 128 + number
    assert line.startswith("stopped after step ")


def test_a_burst_of_signals_is_one_stop_and_the_launcher_leaves_last(session: Session) -> None:
    for number in ("TERM", "USR1", "TERM", "INT", "TERM", "USR1"):
        session.agent.send_signal(signal.Signals[f"SIG{number}"])
        time.sleep(0.05)
    status, _ = session.end()
    assert not any(worker.is_running() for worker in session.workers)
    assert status == 143
    said = session.said()
    stopped = re.fullmatch(r"stopped after step (\d+), saved in run; continue .*", said[-1])
    assert stopped is not None, said
    assert not [line for line in said if "Error" in line or "Traceback" in line]
    assert (session.run / "checkpoints" / f"step-{int(stopped[1]):09d}").is_dir()


def test_a_closed_terminal_does_not_stop_what_runs_under_nohup(
    tmp_path: Path, recipe: Recipe
) -> None:
    session = Session(tmp_path, recipe, "nohup", *TRAIN)
    session.agent.send_signal(signal.SIGHUP)
    session.workers[1].send_signal(signal.SIGHUP)
    status, lines = session.end(limit_s=180)
    assert (status, lines) == (0, [])
    assert len(ledger(session.run)) == 100


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (signal.SIGKILL, "killed by SIGKILL (the kernel does so when memory runs out)"),
        (signal.SIGSEGV, "killed by SIGSEGV (a crash in native code)"),
    ],
)
def test_a_rank_that_dies_is_one_line_and_the_other_ends_soon(
    session: Session, number: signal.Signals, hint: str
) -> None:
    session.workers[1].send_signal(number)
    start_s = time.monotonic()
    status, (line,) = session.end()
    assert time.monotonic() - start_s < 10
    assert status == 128 + number
    assert re.fullmatch(
        rf"rank 1 on {socket.gethostname()}, after step \d+: {re.escape(hint)}", line
    )


def test_a_second_interrupt_ends_everything_at_once(session: Session) -> None:
    session.agent.send_signal(signal.SIGINT)
    time.sleep(0.05)
    session.agent.send_signal(signal.SIGINT)
    status, _ = session.end(limit_s=10)
    assert status == 130
    assert not any(worker.is_running() for worker in session.workers)


def test_ranks_whose_agent_is_killed_save_and_end(session: Session) -> None:
    session.agent.kill()
    _, alive = psutil.wait_procs(session.workers, timeout=30)
    assert alive == []
    _, (line,) = session.end()
    stopped = re.match(r"stopped after step (\d+), saved in run", line)
    assert stopped is not None
    assert (session.run / "checkpoints" / f"step-{int(stopped[1]):09d}").is_dir()


def test_torchrun_starts_a_stopped_run_again(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Left alone, torchrun keeps the addresses of the processes before the restart, which the new
    # ones may read.
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    words = ("train", "x.yaml", "--run-dir", "run", "--auto-resume")
    session = Session(
        tmp_path, recipe, *torchrun, "--max-restarts", "1", "--standalone", "-m", "ixt", *words
    )
    session.workers[0].send_signal(signal.SIGTERM)
    status, lines = session.end(limit_s=180)
    assert status == 0
    assert [line.split()[0] for line in lines] == ["stopped", "resumed"]
    assert len(ledger(session.run)) == 100


def test_our_own_agent_starts_a_killed_rank_again(tmp_path: Path, recipe: Recipe) -> None:
    session = Session(tmp_path, recipe, *TRAIN, "--max-restarts", "1")
    session.workers[1].kill()
    status, lines = session.end(limit_s=180)
    assert status == 0
    assert any(
        re.fullmatch(r"rank 1 starts again; after step \d+: ended without a report", line)
        for line in lines
    )
    assert len(ledger(session.run)) == 100
    assert rank_file.FOLDER not in os.environ
