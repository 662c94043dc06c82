"""Sampling gives each class its share of an epoch, as a function of seed, epoch and position."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from updates import one_update

from ixt.errors import RecipeError
from ixt.pipeline.plan.plan import Planner, build_planner
from ixt.pipeline.plan.sampling import class_quotas
from ixt.recipe import parse_recipe

Sections = dict[str, dict[str, Any]]
COUNTS = np.array([100, 36, 4])


def planner(sections: Sections, sampling: object, counts: np.ndarray = COUNTS) -> Planner:
    """Of images whose labels are 0, 2, 4, ...: outputs without images lie between them."""
    recipe = parse_recipe({**sections, "data": {**sections["data"], "sampling": sampling}})
    labels = np.repeat(2 * np.arange(len(counts)), counts)
    return build_planner(recipe, labels, np.full((len(labels), 2), 64, np.int32))


@pytest.mark.parametrize(
    ("power", "quotas"),
    [
        (0.0, [47, 47, 46]),  # 140 / 3 = 46.67; the first two get what is left
        (0.5, [78, 47, 15]),  # of 10 + 6 + 2: 77.78, 46.67 and 15.56, rounded down 138
        (1.0, [100, 36, 4]),
    ],
)
def test_quotas_are_the_powers_rounded_by_largest_remainder(
    power: float, quotas: list[int]
) -> None:
    assert class_quotas(COUNTS, power).tolist() == quotas


@pytest.mark.parametrize("power", [0.0, 0.01, 0.37, 0.5, 0.99])
def test_quotas_fill_the_epoch_and_leave_no_class_out(power: float) -> None:
    rng = np.random.default_rng(0)
    for counts in ([1], [1] * 7, [1, 10**9], rng.integers(1, 1300, 1000), 2 ** np.arange(30)):
        quotas = class_quotas(np.asarray(counts), power)
        assert quotas.sum() == np.sum(counts)
        assert quotas.min() >= 1


@pytest.mark.parametrize("sampling", ["balanced", "sqrt", 0.25])
def test_each_image_is_shown_as_often_as_the_others_of_its_class(
    tiny_sections: Sections, sampling: object
) -> None:
    plan = planner(tiny_sections, sampling)
    orders = [plan.order(epoch) for epoch in range(2)]
    for order in orders:
        quotas = class_quotas(COUNTS, plan.sampling)
        assert len(order) == 140
        assert np.bincount(plan.labels[order], minlength=5)[::2].tolist() == quotas.tolist()
        shown = np.bincount(order, minlength=140)
        for number, (count, quota) in enumerate(zip(COUNTS, quotas, strict=True)):
            of_class = shown[plan.labels == 2 * number]
            times = {quota // count: count - quota % count, quota // count + 1: quota % count}
            assert Counter(of_class.tolist()) == Counter({k: int(n) for k, n in times.items()})
    assert not np.array_equal(orders[0], orders[1])
    left_out = [np.flatnonzero(np.bincount(order, minlength=140) == 0) for order in orders]
    assert not np.array_equal(left_out[0], left_out[1])
    assert np.array_equal(orders[0], planner(tiny_sections, sampling).order(0))


def test_uniform_and_the_power_one_are_the_order_without_sampling(tiny_sections: Sections) -> None:
    without = build_planner(
        parse_recipe(tiny_sections), planner(tiny_sections, 1).labels, np.zeros((140, 2), np.int32)
    ).order(3)
    assert np.array_equal(np.sort(without), np.arange(140))
    for sampling in ("uniform", 1, 1.0):
        assert np.array_equal(planner(tiny_sections, sampling).order(3), without)


def test_the_order_is_the_one_of_every_release(tiny_sections: Sections) -> None:
    # Written down once: a change here would silently change every run that is resumed.
    order = planner(tiny_sections, "balanced", np.array([7, 3])).order(1)
    assert order.tolist() == [5, 2, 7, 3, 9, 0, 4, 7, 8, 8]


def test_classes_are_spread_over_the_epoch(tiny_sections: Sections) -> None:
    counts = np.array([4000, 1000])
    plan = planner(tiny_sections, "balanced", counts)
    first = plan.labels[plan.order(0)][:1000] == 0
    assert abs(first.mean() - 0.5) < 0.08  # five standard deviations


def test_an_update_is_the_same_for_any_cut_and_two_processes(
    digits: Path, tiny_sections: Sections
) -> None:
    augment = {**tiny_sections["augment"], "mixing_group": 16}
    data = {**tiny_sections["data"], "sampling": "sqrt"}
    sections = {**tiny_sections, "augment": augment, "data": data}
    whole = one_update(digits, sections, micro_batch=256, world_size=1)
    parts = one_update(digits, sections, micro_batch=32, world_size=2, num_threads=2)
    later = one_update(digits, sections, micro_batch=64, world_size=2, start=1, update=2)
    assert all(map(torch.equal, whole, parts))
    again = one_update(digits, sections, micro_batch=256, world_size=1, start=0, update=2)
    assert all(map(torch.equal, later, again))
    uniform = one_update(
        digits, {**sections, "data": tiny_sections["data"]}, micro_batch=256, world_size=1
    )
    assert not torch.equal(whole[1], uniform[1])


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("augment", {"repeats": 3}, "is balanced, and augment.repeats 3 shows images several"),
        ("optim", {"class_weights": "balanced"}, "rare classes would count twice"),
        ("data", {"shots": 5}, "has an effect only where classes differ"),
        ("data", {"sampling": 1.5}, "is 1.5; "),
        ("data", {"sampling": "rare"}, "is 'rare'; "),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    tiny_sections: Sections, section: str, changes: dict[str, Any], words: str
) -> None:
    sections = {**tiny_sections, "data": {**tiny_sections["data"], "sampling": "balanced"}}
    sections[section] = {**sections[section], **changes}
    with pytest.raises(RecipeError, match=r"^recipe: data.sampling: ") as caught:
        parse_recipe(sections)
    (line,) = str(caught.value).splitlines()
    assert words in line
