"""How a launcher ends its processes, on processes that only pretend to be some."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping

import pytest

from ixt.distributed.launch.ending import Left, end_all, stopped_message, stopped_status
from ixt.distributed.launch.rank_file import RankReport
from ixt.distributed.signals import Received
from ixt.distributed.timing import Timing

SAVED = RankReport(143, "stopped after step 9, saved in run; continue with: ixt resume run")
LOST = RankReport(1, "another process is gone", because_of_another=True)


class Pretended:
    """Two processes and a clock; each ends so many seconds after a signal that it obeys."""

    def __init__(self, ends: Callable[[int, int], tuple[float, int] | None]) -> None:
        self.now_s = 0.0
        self.ends = ends
        self.received = Received()
        self.later: dict[float, int] = {}
        """Signals that the launcher receives while it waits, by time."""
        self.sent: list[tuple[int, int]] = []
        self._ending: dict[int, tuple[float, int]] = {}
        self.timing = Timing(now=lambda: self.now_s, wait=self._wait)

    def _wait(self, event: threading.Event, duration_s: float | None) -> bool:
        self.now_s += duration_s or 0
        for at_s in [at_s for at_s in self.later if at_s <= self.now_s]:
            self.received.note(self.later.pop(at_s))
        return False

    def exit_codes(self) -> Mapping[int, int | None]:
        codes: dict[int, int | None] = {}
        for rank in range(2):
            at_s, code = self._ending.get(rank, (float("inf"), 0))
            codes[rank] = code if at_s <= self.now_s else None
        return codes

    def send(self, local_rank: int, number: int) -> None:
        if number != signal.SIGCONT:
            self.sent.append((local_rank, number))
        if number == signal.SIGKILL:
            self._ending[local_rank] = self.now_s, -number
        elif (ending := self.ends(local_rank, number)) is not None:
            self._ending.setdefault(local_rank, (self.now_s + ending[0], ending[1]))


def test_a_burst_is_passed_on_once_each_and_waited_for() -> None:
    pretended = Pretended(lambda rank, number: (5.0 + rank, 143))
    pretended.received.note(signal.SIGTERM)
    burst = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    pretended.later = {0.05 * (n + 1): number for n, number in enumerate(burst)}
    assert end_all(pretended, pretended.received, signal.SIGTERM, pretended.timing) == []
    assert pretended.now_s == pytest.approx(6, abs=0.1)
    assert pretended.received.first == signal.SIGTERM
    expected = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
    assert [number for rank, number in pretended.sent if rank == 0] == expected


def test_a_second_interrupt_kills_at_once() -> None:
    pretended = Pretended(lambda rank, number: None)
    pretended.received.note(signal.SIGTERM)
    pretended.later = {1.0: signal.SIGINT, 2.0: signal.SIGINT}
    assert end_all(pretended, pretended.received, signal.SIGTERM, pretended.timing) == [0, 1]
    assert pretended.now_s == pytest.approx(2, abs=0.1)


def test_a_long_save_is_not_cut_off_and_a_failure_ends_the_patience() -> None:
    saves = Pretended(lambda rank, number: (500.0, 143))
    saves.received.note(signal.SIGUSR1)
    assert end_all(saves, saves.received, signal.SIGUSR1, saves.timing) == []
    fails = Pretended(lambda rank, number: (0.0, 2) if rank == 0 else None)
    fails.received.note(signal.SIGUSR1)
    assert end_all(fails, fails.received, signal.SIGUSR1, fails.timing) == [1]
    assert fails.now_s == pytest.approx(30, abs=0.2)


def test_what_even_a_kill_does_not_end_is_given_up() -> None:
    pretended = Pretended(lambda rank, number: None)
    pretended.exit_codes = lambda: {0: None}  # type: ignore[method-assign]
    assert end_all(pretended, pretended.received, signal.SIGTERM, pretended.timing) == [0]
    assert pretended.now_s == pytest.approx(60, abs=0.3)


@pytest.mark.parametrize(
    ("left", "status", "message"),
    [
        ([Left(143, SAVED, 9), Left(143, SAVED, 9)], 143, SAVED.message),
        ([Left(143, SAVED, 9), Left(1, LOST, 9)], 143, SAVED.message),
        ([Left(1, LOST, 9), Left(-9, None, 8)], 143, LOST.message),
        ([Left(0, None, 9), Left(0, None, 9)], 0, ""),
        (
            [Left(-15, None, None)],
            143,
            "stopped by SIGTERM before the first step; nothing was saved after the last checkpoint",
        ),
        (
            [Left(-9, None, 9, killed=True)],
            143,
            "killed because some processes did not end, after step 9; nothing was saved after "
            "the last checkpoint",
        ),
    ],
)
def test_the_last_words_of_a_stopped_launcher_are_true(
    left: list[Left], status: int, message: str
) -> None:
    assert stopped_status(signal.SIGTERM, left) == status
    assert stopped_message(signal.SIGTERM, False, left) == message


def test_whoever_leaves_at_once_reads_that_nothing_was_saved() -> None:
    said = stopped_message(signal.SIGINT, True, [Left(-9, None, 9, killed=True)])
    assert said == (
        "killed at the second Ctrl-C, after step 9; nothing was saved after the last checkpoint"
    )
