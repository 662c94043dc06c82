"""A loss that stands out is found; its images can be shown."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import pytest

from ixt.monitor.spikes import Spikes, spike_row
from ixt.recipe import Recipe

CALM = [1.0, 3.0] * 10  # mean 2, standard deviation 1


def test_a_loss_stands_out_from_so_many_standard_deviations_on() -> None:
    assert Spikes(6.0).find([*CALM, 7.9]) == {}
    assert Spikes(6.0).find([*CALM, 8.1]) == {20: pytest.approx(6.1)}


def test_nineteen_losses_say_nothing_yet_and_null_finds_none() -> None:
    assert Spikes(6.0).find([*CALM[:19], 100.0]) == {}
    assert Spikes(None).find([*CALM, 100.0]) == {}


def test_the_past_reaches_over_intervals() -> None:
    spikes = Spikes(6.0)
    assert spikes.find(CALM[:15]) == {}
    assert spikes.find([*CALM[15:], 50.0]).keys() == {5}


def test_a_loss_that_is_not_finite_is_found_and_leaves_the_mean_alone() -> None:
    spikes = Spikes(6.0)
    assert spikes.find([*CALM, math.nan, math.inf]) == {20: math.inf, 21: math.inf}
    assert spikes.find([8.1]) == {0: pytest.approx(6.1)}


def test_low_losses_and_a_loss_that_hardly_moves_are_no_spikes() -> None:
    assert Spikes(6.0).find([*CALM, -50.0]) == {}
    assert Spikes(6.0).find([2.0] * 20 + [2.01]) == {}


def test_the_row_names_the_positions_of_the_update(tiny: Recipe) -> None:
    row = spike_row(tiny, Path("runs/my run"), 7, 5, 9.5, 1e-3)
    assert (row["step"], row["epoch"], row["positions"]) == (8, 1, [512, 767])
    words = shlex.split(row["show"])
    assert words[:3] == ["ixt", "data", "show"]
    assert words[4:] == [
        *("--recipe", "runs/my run", "--epoch", "1", "--position", "512", "--count", "256")
    ]
