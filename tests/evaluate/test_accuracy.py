from __future__ import annotations

import numpy as np
import pytest

from ixt.evaluate.accuracy import (
    accuracy,
    calibration_error,
    class_results,
    confusions,
    hits,
    mcnemar,
    verdict,
    wilson_interval,
)
from ixt.evaluate.records import Records


def records(top: list[list[int]], readable: list[bool] | None = None) -> Records:
    padded = np.full((len(top), 5), -1, np.int64)
    for row, outputs in enumerate(top):
        padded[row, : len(outputs)] = outputs
    ones = np.ones(len(top))
    return Records(padded, ones, ones / 2, np.array(readable or [True] * len(top)))


def test_damaged_and_unlabelled_images_do_not_count() -> None:
    found = records([[1, 2], [2, 1], [0, 2], [1]], [True, True, False, True])
    result = accuracy(found, np.array([1, 1, 0, -1]))
    assert (result.top1, result.top5, result.loss) == (50.0, 100.0, 1.0)
    assert (result.count, result.skipped) == (2, 1)


def test_padding_is_never_a_hit() -> None:
    assert not hits(records([[1, 2]]), np.array([-1]), 5).any()
    assert not hits(records([[1, 2]]), np.array([[0, -1]]), 5).any()


def test_any_of_several_labels_is_a_hit() -> None:
    assert hits(records([[3, 1], [2, 0]]), np.array([[1, 3], [1, 3]]), 1).tolist() == [True, False]


def test_wilson_intervals_are_those_of_the_textbook() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I.
    assert wilson_interval(81, 263) == pytest.approx((25.53, 36.62), abs=0.005)
    assert wilson_interval(15, 148) == pytest.approx((6.24, 16.05), abs=0.005)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 16.11), abs=0.005)


def test_calibration_error_is_the_mean_distance_over_the_bins() -> None:
    confidence = np.array([0.9, 0.92, 0.5, 0.51, 1.0])
    right = np.array([True, False, True, True, True])
    # Bins of width 1/15: (.867, .933] has .9 and .92; (.467, .533] has .5 and .51.
    by_hand = (abs(1.82 - 1) + abs(1.01 - 2) + abs(1.0 - 1)) / 5
    assert calibration_error(confidence, right) == pytest.approx(by_hand)
    assert calibration_error(np.array([]), np.array([], bool)) == 0


def test_class_results_name_what_is_predicted_instead() -> None:
    found = records([[0], [1, 0], [1, 0], [2, 0], [1]])
    zero, one = class_results(found, np.array([0, 0, 0, 0, 1]))
    assert list(zero.values()) == [0, 4, 25.0, 100.0, 1]
    assert (one["top1"], one["most_predicted_instead"]) == (100.0, None)


def test_confusions_come_with_the_most_frequent_first() -> None:
    found = records([[0], [2], [1], [1], [0]])
    assert confusions(found, np.array([0, 0, 0, 0, 1])) == [(0, 1, 2), (0, 2, 1), (1, 0, 1)]


def test_mcnemar_is_the_binomial_test_of_what_differs() -> None:
    first = np.array([True] * 7 + [False] * 1 + [True] * 50)
    second = np.array([False] * 7 + [True] * 1 + [True] * 50)
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second) == (7, 1)
    assert test.p == pytest.approx(2 * (8 + 1) / 2**8)  # at most one head or tail in eight throws
    assert mcnemar(first, first).p == 1


def test_the_verdict_names_the_better_one_only_where_chance_is_unlikely() -> None:
    many = mcnemar(np.arange(20) < 18, np.arange(20) >= 18)
    assert verdict("a", "b", many).startswith("a is better than b (p = 0.000402; only a right: 18")
    reverse = mcnemar(np.arange(20) >= 18, np.arange(20) < 18)
    assert verdict("a", "b", reverse).startswith("b is better than a")
    few = mcnemar(np.arange(3) < 2, np.arange(3) >= 2)
    assert verdict("a", "b", few).startswith("a and b do not differ by more than chance (p = 1;")
