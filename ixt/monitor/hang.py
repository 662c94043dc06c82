"""A process that makes no progress ends the run, and says where it was.

A thread in each process looks at the signs of life of its main thread. Where none came for too
long, it writes the stack of every thread into the run's folder; the other processes see that file
and write theirs. Then each knows which of them got least far: the one that the others wait for. If
that one's time is up too, all leave; if it may take longer, as for a checkpoint, all go on.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Self

from ixt.distributed.group import rank, world_size
from ixt.distributed.launch import rank_file, worker
from ixt.monitor import activity

_TICK_S = 1.0
_FROZEN_S = 30.0  # beyond the time-out; a thread that cannot look for so long ends the process
_GATHER_S = 5.0  # for the others' stacks: a few ticks, and a file server's cache

# Where a main thread is that waits for others. Python cannot see into the backward pass, which
# exchanges gradients.
_WAITING = ("torch/distributed/", "torch/autograd/graph.py", "ixt/agreement.py")


@dataclass(frozen=True)
class Sight:
    """How far a process got, as it writes into the first line of its stacks."""

    rank: int
    host: str
    step: int | None
    """Updates done."""
    count: int
    """Signs of life."""
    doing: str
    since_s: float
    """How long it has done this."""
    left_s: float
    """How much longer it may; negative where its time is up."""
    where: str
    """Innermost place of the main thread, and the innermost one of ours."""
    waits: bool
    """Whether it seems to wait for other processes."""

    def describe(self) -> str:
        """What is known of it, after its name and step."""
        return f"no progress for {self.since_s:.0f} s while {self.doing}; main thread {self.where}"


class HangWatch:
    """Looks after this process within a `with` block."""

    def __init__(self, run_dir: Path, timeout_s: float | None) -> None:
        """Watch nothing yet.

        Args:
            run_dir: where stacks are written, as stacks-rank-N.txt.
            timeout_s: how long an update's part (loading, computing), an evaluation's batch or a
                sixth of a checkpoint may take; None for ever.
        """
        self._run_dir, self._timeout_s = run_dir, timeout_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang watch", daemon=True)
        self._main = threading.get_ident()

    def __enter__(self) -> Self:
        activity.restart()
        if self._timeout_s is not None:
            self._began_s = time.time()
            # Also for a main thread that keeps the interpreter's lock, so that no thread can look.
            self._last_words = _stacks(self._run_dir, rank()).open("w")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()
            self._last_words.close()
            _stacks(self._run_dir, rank()).unlink(missing_ok=True)

    def _watch(self) -> None:
        assert self._timeout_s is not None
        tick_s = min(_TICK_S, self._timeout_s / 4)
        while not self._closed.wait(tick_s):
            frozen_s = self._timeout_s * activity.last().patience + _FROZEN_S
            faulthandler.dump_traceback_later(frozen_s, exit=True, file=self._last_words)
            if self._look().left_s < 0 or self._seen():
                self._consult()

    def _seen(self) -> list[Sight]:
        """What processes wrote since this one began to watch."""
        sights = []
        for file in self._run_dir.glob("stacks-rank-*.txt"):
            try:
                if file.stat().st_mtime >= self._began_s:
                    sights.append(Sight(**json.loads(file.read_text().partition("\n")[0])))
            except (OSError, ValueError, TypeError):
                continue  # deleted just now, or nothing is in it
        return sights

    def _consult(self) -> None:
        """Write down how far this process got, wait for the others' word, leave or go on."""
        own = self._look()
        self._write(own)
        deadline_s = time.monotonic() + _GATHER_S
        while len(seen := self._seen()) < world_size() and time.monotonic() < deadline_s:
            time.sleep(_TICK_S / 4)
        guilty = culprit([own, *seen])
        if guilty.left_s < 0 and not self._closed.is_set():
            leave(own, guilty, self._run_dir)
        self._closed.wait(_TICK_S)  # for the others to have read it
        _stacks(self._run_dir, own.rank).unlink(missing_ok=True)
        self._closed.wait(_GATHER_S)

    def _look(self) -> Sight:
        assert self._timeout_s is not None
        last, frame = activity.last(), sys._current_frames().get(self._main)
        where, waits = _place(frame)
        since_s = time.monotonic() - last.at_s
        return Sight(
            rank=rank(),
            host=socket.gethostname(),
            step=rank_file.own_step(),
            count=last.count,
            doing=last.doing,
            since_s=round(since_s, 1),
            left_s=self._timeout_s * last.patience - since_s,
            where=where,
            waits=waits,
        )

    def _write(self, own: Sight) -> None:
        file = _stacks(self._run_dir, own.rank)
        part = file.with_suffix(".part")
        with part.open("w") as stream:
            stream.write(json.dumps(asdict(own)) + "\n\n")
            stream.flush()
            faulthandler.dump_traceback(stream, all_threads=True)
        part.replace(file)


def culprit(sights: list[Sight]) -> Sight:
    """The process that the others wait for: it got least far, or is in no exchange with others."""
    return min(sights, key=lambda s: (s.step if s.step is not None else -1, s.waits, s.count))


def leave(own: Sight, guilty: Sight, run_dir: Path) -> None:
    """Say why, and end this process without waiting for its main thread."""
    innocent = guilty.rank != own.rank
    reason = (
        f"waits for rank {guilty.rank} on {guilty.host}"
        if innocent
        else f"{own.describe()}; stacks: {run_dir}/stacks-rank-*.txt"
    )
    if innocent:
        time.sleep(_GATHER_S)  # the first one to end has the launcher end all: let it be that one
    line = worker.describe(own.host, own.rank, own.step, reason)
    word = rank_file.Ending(1, reason if innocent else line, because_of_another=innocent)
    if not rank_file.leave(word):
        print(line, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _place(frame: FrameType | None) -> tuple[str, bool]:
    """Where a thread is, in words, and whether it waits for other processes."""
    if frame is None:
        return "ended", False
    frames = []
    inner: FrameType | None = frame
    while inner is not None:
        frames.append(inner)
        inner = inner.f_back
    files = [f.f_code.co_filename for f in frames]
    waits = any(word in file for word in _WAITING for file in files[:8])
    own = next((f for f in frames if "/ixt/" in f.f_code.co_filename), None)
    words = f"in {_line(frame)}"
    return (f"{words}, from {_line(own)}" if own not in (None, frame) else words), waits


def _line(frame: FrameType | None) -> str:
    assert frame is not None
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno} ({frame.f_code.co_name})"


def _stacks(run_dir: Path, number: int) -> Path:
    return run_dir / f"stacks-rank-{number}.txt"
