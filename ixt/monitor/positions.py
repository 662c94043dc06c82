"""How far each process of a run got, which one the others wait for, and where they write it."""

from __future__ import annotations

import faulthandler
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ixt.distributed.launch import rank_file

_OF_LATENCY = 1 / 5  # of the time-out: how long an answer may be under way between machines
_LATENCY_S = 120.0  # at most: twice the longest that NFS remembers which files there are


@dataclass(frozen=True)
class Peer:
    """A process of the run."""

    host: str
    pid: int


@dataclass(frozen=True)
class Position:
    """How far a process got, as it writes into the first line of its stacks."""

    rank: int
    host: str
    pid: int
    step: int | None
    """Updates done."""
    count: int
    """Activities begun."""
    doing: str
    since_s: float
    """How long it has done this."""
    left_s: float
    """Seconds that it may still take; negative if its time is up."""
    where: str
    """Innermost place of the main thread, and the innermost one of ours."""
    waits: bool
    """Whether it seems to wait for other processes."""

    def describe(self) -> str:
        """What is known about it, to follow its name and step."""
        return f"no progress for {self.since_s:.0f} s while {self.doing}; main thread {self.where}"


@dataclass(frozen=True)
class Verdict:
    """The process that the others have waited for too long."""

    rank: int
    reporter: int
    """The process that reports it: itself, or another one if it cannot."""
    step: int | None
    """Updates that it has done, or at least those that the others have done."""


def culprit(positions: list[Position]) -> Position:
    """The process that the others wait for: it got least far, or is in no exchange with others."""
    return min(positions, key=lambda p: (-1 if p.step is None else p.step, p.waits, p.count))


def judge(positions: list[Position], processes: int) -> Verdict | None:
    """Decide who ends the run; None where all continue.

    `positions` are those of all of the run's processes that answered in time, one each.
    """
    silent = sorted(set(range(processes)) - {position.rank for position in positions})
    if silent:
        overdue = any(position.left_s < 0 for position in positions)
        reporter = min(position.rank for position in positions)
        return Verdict(silent[0], reporter, _fewest(positions)) if overdue else None
    guilty = culprit(positions)
    return Verdict(guilty.rank, guilty.rank, guilty.step) if guilty.left_s < 0 else None


def _fewest(positions: list[Position]) -> int | None:
    return min((p.step for p in positions if p.step is not None), default=None)


def answer_time_s(peers: list[Peer], timeout_s: float, least_s: float) -> float:
    """How long to wait for what the others write, before one counts as silent.

    `least_s` is for a single machine, where a file is seen at once.
    """
    if len({peer.host for peer in peers}) == 1:
        return least_s
    return max(least_s, min(_LATENCY_S, timeout_s * _OF_LATENCY))


def has_ended(peer: Peer, own_host: str) -> bool:
    """Whether a process is known to be gone; of another machine one cannot know."""
    return peer.host == own_host and not rank_file.state_of(peer.pid)


def describe_silent(peer: Peer, own_host: str) -> str:
    """One line about a process that does not answer, after its name and step."""
    state = rank_file.state_of(peer.pid) if peer.host == own_host else None
    why = {
        None: "it is stopped, or its machine or its access to the run folder hangs",
        "T": "it is stopped (SIGSTOP)",
        "t": "it is stopped by a debugger",
        "D": "it waits for a device or a disk",
    }.get(state, "none of its threads runs")
    return f"process {peer.pid} does not answer: {why}, and the others wait for it"


class Board:
    """Where processes read each other's positions: a file each in the run's folder."""

    def __init__(self, run_dir: Path, rank: int, peers: list[Peer]) -> None:
        """Prepare the board; what others than these peers left in the folder does not count."""
        self._run_dir, self._peers = run_dir, peers
        self.file = run_dir / f"stacks-rank-{rank}.txt"

    def write(self, position: Position) -> None:
        """Write a position and the stacks of all threads."""
        part = self.file.with_suffix(".part")  # not fsynced: the disk may be what hangs
        with part.open("w") as stream:
            stream.write(json.dumps(asdict(position)) + "\n\n")
            stream.flush()
            faulthandler.dump_traceback(stream, all_threads=True)
        part.replace(self.file)

    def read(self) -> dict[int, Position]:
        """What processes of this run have written, by rank; nothing while the disk fails."""
        found: dict[int, Position] = {}
        try:
            files = list(self._run_dir.glob("stacks-rank-*.txt"))
        except OSError:
            return found
        for file in files:
            try:
                position = Position(**json.loads(file.read_text().partition("\n")[0]))
                peer = self._peers[position.rank]
            except (OSError, ValueError, TypeError, IndexError):
                continue  # deleted just now, nothing is in it, or of another run
            if peer == Peer(position.host, position.pid):
                found[position.rank] = position
        return found

    def clear(self) -> None:
        """Remove what this process wrote."""
        self.file.unlink(missing_ok=True)
