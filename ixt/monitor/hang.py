"""A process that makes no progress ends the run, and says where it was.

A thread in each process watches its main thread. Where that made no progress for too long, it
writes the stack of every thread into the run's folder; the other processes see that file and write
theirs. Then each knows which of them got least far: the one that the others wait for. If that one's
time is up too, all end; if it may take longer, as for a checkpoint, all continue. A process that
writes nothing does not run at all, e.g. because of a SIGSTOP: it is the one, whatever it may.

NCCL's flight recorder would not do: it knows the collectives that a rank has entered, not where a
rank outside of one is, and gloo has none.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from ixt.distributed import stop_agreement
from ixt.distributed.group import rank
from ixt.distributed.launch import rank_file, worker
from ixt.distributed.run_status import end_running
from ixt.distributed.timing import REAL, Timing
from ixt.monitor import activity
from ixt.monitor.positions import (
    Board,
    Peer,
    Position,
    Verdict,
    answer_time_s,
    describe_silent,
    has_ended,
)
from ixt.monitor.positions import judge as judge_positions

_TICK_S = 1.0
_LATE_S = 2.0  # a tick that comes so late: this process was stopped, and so was its time
_FROZEN_S = 30.0  # beyond the time-out; a thread that cannot look for so long ends the process
_GATHER_S = 5.0  # for the others' stacks: longer than one of them may be busy with the last ones
_REST_S = 2.0  # after that

# Where a main thread is that waits for others. Python cannot see into the backward pass, which
# exchanges gradients.
_WAITING = ("torch/distributed/", "torch/autograd/graph.py", stop_agreement.__file__)


class HangWatch:
    """Watches this process within a `with` block."""

    def __init__(self, run_dir: Path, timeout_s: float | None, peers: list[Peer]) -> None:
        """Watch nothing yet.

        Stacks are written to `run_dir`, as stacks-rank-N.txt. `timeout_s` is how long an update's
        part (loading, computing), an evaluation's batch or a sixth of a checkpoint may take; None
        for no limit. `peers` are the processes of the run, by rank.
        """
        self._board = Board(run_dir, rank(), peers)
        self._watch: Watch | None = None
        if timeout_s is not None:
            main = threading.get_ident()
            progress = Progress(rank(), peers[rank()], timeout_s, lambda: _place(main))
            end = Ending(run_dir, peers)
            self._watch = Watch(self._board, peers, timeout_s, progress.position, end, self._rearm)
        self._last_words: IO[str] | None = None

    def __enter__(self) -> Self:
        activity.restart()
        if self._watch is not None:
            # Also for a main thread that keeps the interpreter's lock, so that no thread can look.
            self._last_words = self._board.file.open("w")
            self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._watch is not None and self._last_words is not None:
            self._watch.close()
            faulthandler.cancel_dump_traceback_later()
            self._last_words.close()
            self._board.clear()

    def _rearm(self, left_s: float) -> None:
        assert self._last_words is not None
        faulthandler.dump_traceback_later(left_s, exit=True, file=self._last_words)


class Watch:
    """What the watching thread decides; all that it touches is given to it."""

    def __init__(
        self,
        board: Board,
        peers: list[Peer],
        timeout_s: float,
        position: Callable[[float], Position],
        end: Callable[[Position, Verdict], None],
        rearm: Callable[[float], None],
        timing: Timing = REAL,
    ) -> None:
        """Watch nothing yet.

        `position` is given the seconds in which this process was stopped; `end` ends it because of
        a verdict; `rearm` is called each tick with the seconds after which a thread that cannot
        look is dead.
        """
        self._board, self._peers, self._timeout_s = board, peers, timeout_s
        self._position_of, self._end, self._rearm, self._timing = position, end, rearm, timing
        self._closed = threading.Event()
        self._join: Callable[[], None] = lambda: None
        self._stopped_s, self._stopped_at = 0.0, -1
        self._seen: dict[int, Position] = {}

    def start(self) -> None:
        """Watch, in a thread."""
        self._join = self._timing.start(self.run, "hang watch")

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._join()

    def run(self) -> None:
        """Look at every tick until closed."""
        while not self._wait(min(_TICK_S, self._timeout_s / 4)):
            self._rearm(self._timeout_s * activity.last().patience + _FROZEN_S)
            if self._position().left_s < 0 or self._answers():
                self._consult()

    def _wait(self, duration_s: float) -> bool:
        """Wait for the end; time in which this process was stopped does not count as its own."""
        began_s = self._timing.now()
        closed = self._timing.wait(self._closed, duration_s)
        late_s = self._timing.now() - began_s - duration_s
        if late_s > _LATE_S:
            self._stopped_s, self._stopped_at = self._own_stop_s() + late_s, activity.last().count
        return closed

    def _own_stop_s(self) -> float:
        return self._stopped_s if activity.last().count == self._stopped_at else 0.0

    def _position(self) -> Position:
        return self._position_of(self._own_stop_s())

    def _consult(self) -> None:
        """Write down how far this process got, read the others' positions, end or continue."""
        own = self._position()
        with suppress(OSError):  # a full disk must not keep a hanging run from its end
            self._board.write(own)
        patience_s = answer_time_s(self._peers, self._timeout_s, _GATHER_S)
        deadline_s = self._timing.now() + patience_s
        while (found := {**self._answers(), own.rank: own}) and self._timing.now() < deadline_s:
            if len(found) == len(self._peers) or self._wait(_TICK_S / 4):
                break
        verdict = judge_positions(list(found.values()), len(self._peers))
        unmoved = activity.last().count == own.count
        if verdict is not None and unmoved and not self._closed.is_set():
            self._end(own, verdict)
        self._seen = found
        self._wait(_TICK_S)  # for the others to have read it
        with suppress(OSError):
            self._board.clear()
        self._wait(_REST_S)

    def _answers(self) -> dict[int, Position]:
        """What the others wrote since the last call; older positions do not count."""
        read = self._board.read().items()
        return {rank: position for rank, position in read if position != self._seen.get(rank)}


class Progress:
    """How far the main thread gets."""

    def __init__(
        self,
        rank: int,
        own: Peer,
        timeout_s: float,
        place: Callable[[], tuple[str, bool]],
        timing: Timing = REAL,
    ) -> None:
        """Describe this process; `place` says where it is, and whether it waits for others."""
        self._rank, self._own, self._timeout_s = rank, own, timeout_s
        self._place, self._timing = place, timing

    def position(self, stopped_s: float) -> Position:
        """Now.

        `stopped_s`: of the time since the last progress, how long this process was stopped.
        """
        last, (where, waits) = activity.last(), self._place()
        since_s = self._timing.now() - last.at_s - stopped_s
        return Position(
            rank=self._rank,
            host=self._own.host,
            pid=self._own.pid,
            step=rank_file.own_step(),
            count=last.count,
            doing=last.doing,
            since_s=round(since_s, 1),
            left_s=self._timeout_s * last.patience - since_s,
            where=where,
            waits=waits,
        )


class Ending:
    """Ends this process without waiting for its main thread, and reports why."""

    def __init__(
        self,
        run_dir: Path,
        peers: list[Peer],
        exit_now: Callable[..., None] = worker.exit_now,
        timing: Timing = REAL,
    ) -> None:
        self._run_dir, self._peers = run_dir, peers
        self._exit_now, self._timing = exit_now, timing

    def __call__(self, own: Position, verdict: Verdict) -> None:
        """End this process, at its own position, because of what all have found."""
        peer = self._peers[verdict.rank]
        stacks = f"stacks: {self._run_dir}/stacks-rank-*.txt"
        if own.rank == verdict.rank:
            words = f"{own.describe()}; {stacks}"
            end_running(self._run_dir, "failed", words)
            self._exit_now(words)
        if own.rank != verdict.reporter:
            # The first one to end has the launcher end all: let it be the one that reports.
            self._timing.sleep(_GATHER_S)
        if verdict.reporter == verdict.rank:
            self._exit_now(f"waits for rank {verdict.rank} on {peer.host}", because_of_another=True)
        if has_ended(peer, own.host):
            self._exit_now(
                "another process is gone", because_of_another=True
            )  # its agent knows why
        # All of the others say the same: the reporter may have moved on meanwhile.
        reason = f"{describe_silent(peer, own.host)}; {stacks}"
        line = worker.describe(peer.host, verdict.rank, verdict.step, reason)
        end_running(self._run_dir, "failed", line)
        self._exit_now(line, in_full=True)


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
