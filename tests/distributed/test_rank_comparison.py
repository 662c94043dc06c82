"""Processes that differ are refused in one line that names both."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ixt.distributed import rank_comparison
from ixt.distributed.rank_comparison import (
    Process,
    _other_data,
    clock_warning,
    compare,
    compare_data,
    difference,
)
from ixt.images.data_digest import DataDigest
from ixt.recipe import Recipe

ONE = Process(
    "node-a", {"torch": "2.14.1", "timm": "1.0.31"}, {"optim.lr": 0.1, "run.seed": 1}, 1000.0
)


def test_another_version_is_named_with_rank_host_and_both_values() -> None:
    other = replace(ONE, host="node-b", versions={"torch": "2.13.0", "timm": "1.0.31"})
    assert difference([ONE, ONE, other]) == (
        "rank 2 on node-b has torch 2.13.0, but rank 0 on node-a has 2.14.1; "
        "install the same version on both"
    )
    assert difference([ONE, ONE]) is None


def test_a_package_that_one_host_lacks_is_a_difference() -> None:
    other = replace(ONE, versions={"torch": "2.14.1", "timm": None})
    assert "has timm (none), but rank 0 on node-a has 1.0.31" in str(difference([ONE, other]))


def test_another_recipe_is_named_by_its_first_key() -> None:
    other = replace(ONE, recipe={"optim.lr": 0.2, "run.seed": 2})
    assert difference([ONE, other]) == (
        "rank 1 on node-a has optim.lr 0.2, but rank 0 on node-a has 0.1; "
        "give all processes the same recipe"
    )


def test_other_images_are_named_with_split_rank_host_counts_and_first_class() -> None:
    whole = DataDigest("a", 12, {"cat": "5 x", "dog": "7 y"})
    fewer = DataDigest("b", 11, {"cat": "5 x", "dog": "6 z"})
    other = DataDigest("c", 12, {"cat": "5 z", "dog": "7 y"})
    one = ("node-a", {"train": whole, "val": whole})
    assert _other_data([one, one, ("node-b", {"train": whole, "val": fewer})]) == (
        "rank 2 on node-b has different val images from rank 0 on node-a: 11 images and 12; "
        "class dog first: 6 and 7; give all processes the same data"
    )
    assert "12 images and 12; class cat first: 5 and 5, with different names or sizes; give" in (
        _other_data([one, ("node-b", {"train": other, "val": whole})])
    )


@pytest.mark.parametrize("skew_s", [61.0, -3600.0])
def test_a_clock_that_is_a_minute_off_is_named(skew_s: float) -> None:
    other = replace(ONE, host="node-b", clock_s=1000.0 + skew_s)
    assert f"rank 1 on node-b differs by {skew_s:+.0f} s" in str(clock_warning([ONE, other]))
    assert clock_warning([ONE, replace(ONE, clock_s=1059.0)]) is None


def test_where_the_data_lies_may_differ_and_nothing_else(tiny: Recipe) -> None:
    elsewhere = tiny.with_(data={"root": "/x"})
    other = tiny.with_(run={"seed": 7})
    assert (
        rank_comparison._flat(elsewhere)
        == rank_comparison._flat(tiny)
        != rank_comparison._flat(other)
    )


def test_one_process_agrees_with_itself(tiny: Recipe) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    hosts, warning = compare(accelerator, tiny)
    assert len(hosts) == 1 and warning is None
    compare_data(accelerator, {"train": DataDigest("a", 1, {})})
