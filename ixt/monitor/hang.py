"""A process that makes no progress ends the run, and says where it was.

A thread in each process watches its main thread. Where that made no progress for too long, it
writes the stack of every thread into the run's folder; the other processes see that file and write
theirs. Then each knows which of them got least far: the one that the others wait for. If that one's
time is up too, all end; if it may take longer, as for a checkpoint, all continue.

NCCL's flight recorder would not do: it knows the collectives that a rank has entered, not where a
rank outside of one is, and gloo has none.
"""

from __future__ import annotations

import faulthandler
import json
import socket
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from ixt.distributed import stop_agreement
from ixt.distributed.group import rank, world_size
from ixt.distributed.launch import rank_file, worker
from ixt.monitor import activity

_TICK_S = 1.0
_FROZEN_S = 30.0  # beyond the time-out; a thread that cannot look for so long ends the process
_GATHER_S = 5.0  # for the others' stacks: a few ticks, and a file server's cache

# Where a main thread is that waits for others. Python cannot see into the backward pass, which
# exchanges gradients.
_WAITING = ("torch/distributed/", "torch/autograd/graph.py", stop_agreement.__file__)


@dataclass(frozen=True)
class Position:
    """How far a process got, as it writes into the first line of its stacks."""

    rank: int
    host: str
    step: int | None
    """Updates done."""
    count: int
    """Activities begun."""
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
    """Watches this process within a `with` block."""

    def __init__(self, run_dir: Path, timeout_s: float | None) -> None:
        """Watch nothing yet.

        Args:
            run_dir: where stacks are written, as stacks-rank-N.txt.
            timeout_s: how long an update's part (loading, computing), an evaluation's batch or a
                sixth of a checkpoint may take; None for ever.
        """
        self._run_dir, self._timeout_s = run_dir, timeout_s
        self._file = run_dir / f"stacks-rank-{rank()}.txt"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang watch", daemon=True)
        self._main = threading.get_ident()

    def __enter__(self) -> Self:
        activity.restart()
        if self._timeout_s is not None:
            self._began_s = time.time()
            # Also for a main thread that keeps the interpreter's lock, so that no thread can look.
            self._last_words = self._file.open("w")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()
            self._last_words.close()
            self._file.unlink(missing_ok=True)

    def _watch(self) -> None:
        assert self._timeout_s is not None
        while not self._closed.wait(min(_TICK_S, self._timeout_s / 4)):
            frozen_s = self._timeout_s * activity.last().patience + _FROZEN_S
            faulthandler.dump_traceback_later(frozen_s, exit=True, file=self._last_words)
            if self._position().left_s < 0 or self._written():
                self._consult()

    def _written(self) -> list[Position]:
        """What processes wrote since this one began to watch."""
        positions = []
        for file in self._run_dir.glob("stacks-rank-*.txt"):
            try:
                if file.stat().st_mtime >= self._began_s:
                    line = file.read_text().partition("\n")[0]
                    positions.append(Position(**json.loads(line)))
            except (OSError, ValueError, TypeError):
                continue  # deleted just now, or nothing is in it
        return positions

    def _consult(self) -> None:
        """Write down how far this process got, read the others' positions, end or continue."""
        own = self._position()
        part = self._file.with_suffix(".part")  # not fsynced: the disk may be what hangs
        with part.open("w") as stream:
            stream.write(json.dumps(asdict(own)) + "\n\n")
            stream.flush()
            faulthandler.dump_traceback(stream, all_threads=True)
        part.replace(self._file)
        deadline_s = time.monotonic() + _GATHER_S
        while len(others := self._written()) < world_size() and time.monotonic() < deadline_s:
            time.sleep(_TICK_S / 4)
        guilty = culprit([own, *others])
        if guilty.left_s < 0 and not self._closed.is_set():
            end_process(own, guilty, self._run_dir)
        self._closed.wait(_TICK_S)  # for the others to have read it
        self._file.unlink(missing_ok=True)
        self._closed.wait(_GATHER_S)

    def _position(self) -> Position:
        assert self._timeout_s is not None
        last, (where, waits) = activity.last(), _place(self._main)
        since_s = time.monotonic() - last.at_s
        return Position(
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


def culprit(positions: list[Position]) -> Position:
    """The process that the others wait for: it got least far, or is in no exchange with others."""
    return min(positions, key=lambda p: (-1 if p.step is None else p.step, p.waits, p.count))


def end_process(own: Position, guilty: Position, run_dir: Path) -> None:
    """Report why, and end this process without waiting for its main thread."""
    if guilty.rank != own.rank:
        # The first one to end has the launcher end all: let it be the guilty one.
        time.sleep(_GATHER_S)
        worker.exit_now(f"waits for rank {guilty.rank} on {guilty.host}", because_of_another=True)
    worker.exit_now(f"{own.describe()}; stacks: {run_dir}/stacks-rank-*.txt")


def _place(thread: int) -> tuple[str, bool]:
    """Where a thread is, in words, and whether it waits for other processes."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "ended", False
    stack = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_stack(frame)
    ]
    waits = any(mark in file for mark in _WAITING for file, _, _ in stack[:8])
    places = [stack[0], *(entry for entry in stack if "/ixt/" in entry[0])][:2]
    texts = [
        f"{Path(file).parent.name}/{Path(file).name}:{line} ({name})"
        for file, line, name in dict.fromkeys(places)
    ]
    return f"in {', from '.join(texts)}", waits
