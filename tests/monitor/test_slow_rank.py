"""A process that slows the others down is named once, after three intervals."""

from __future__ import annotations

import torch

from ixt.monitor.slow_rank import RankTimes, SlowRank, Stopwatch, slowest

EVEN = [RankTimes(1.0, 5.0)] * 4
LATE = [RankTimes(1.0, 5.0), RankTimes(3.0, 5.0), RankTimes(1.0, 5.0), RankTimes(1.2, 5.0)]
HOT = [RankTimes(1.0, 5.0), RankTimes(1.0, 5.0), RankTimes(1.0, 8.0), RankTimes(1.0, 5.0)]
HOSTS = ["a", "a", "b", "b"]


def test_a_rank_that_waits_for_data_is_named_once_with_its_host() -> None:
    slow = SlowRank(HOSTS)
    assert [slow.look(LATE, 10.0) for _ in range(2)] == [None, None]
    assert slow.look(LATE, 10.0) == (
        "rank 1 on a slows the others down: it waited for data 30% of the time (median 10%) and "
        "its forward passes took 5.00 s (median 5.00 s) in the last 10.0 s"
    )
    assert [slow.look(LATE, 10.0) for _ in range(5)] == [None] * 5


def test_a_rank_that_computes_slowly_is_named_too() -> None:
    slow = SlowRank(HOSTS)
    line = [slow.look(HOT, 10.0) for _ in range(3)][-1]
    assert line is not None and line.startswith("rank 2 on b slows the others down")


def test_a_good_interval_between_starts_the_count_again() -> None:
    slow = SlowRank(HOSTS)
    assert [slow.look(t, 10.0) for t in (LATE, LATE, EVEN, LATE, LATE)] == [None] * 5
    assert slow.look(LATE, 10.0) is not None


def test_changing_ranks_and_small_differences_are_no_slow_rank() -> None:
    slow = SlowRank(HOSTS)
    assert [slow.look(t, 10.0) for t in (LATE, HOT) * 4] == [None] * 8
    small = [RankTimes(0.01, 5.0), RankTimes(0.3, 5.0)]
    assert [SlowRank(HOSTS).look(small, 10.0) for _ in range(4)] == [None] * 4


def test_one_of_two_can_be_slow() -> None:
    slow = SlowRank(["a", "b"])
    two = [RankTimes(0.1, 5.0), RankTimes(3.0, 5.0)]
    assert "rank 1 on b" in str([slow.look(two, 10.0) for _ in range(3)][-1])


def test_the_slowest_is_the_one_that_takes_longest_for_itself() -> None:
    assert slowest(LATE) == 1
    assert slowest(HOT) == 2


def test_a_stopwatch_adds_its_blocks_up() -> None:
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch:
            torch.rand(300, 300) @ torch.rand(300, 300)
    assert 0 < watch.read_s() < 10
