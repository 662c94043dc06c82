from __future__ import annotations

import math

import pytest

from ixt.runs.report.chart import Line, line_chart, linear_axis, thinned, tick_text


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0, 1.0], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([47.8, 88.1], ["40", "50", "60", "70", "80", "90"]),
        ([0.0, 0.002], ["0", "0.0005", "0.001", "0.0015", "0.002"]),
        ([0.0, 4321.0], ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]),
        ([3.0, 3.0], ["2.6", "2.8", "3", "3.2", "3.4"]),
        ([0.0], ["-0.6", "-0.4", "-0.2", "0", "0.2", "0.4", "0.6"]),
    ],
)
def test_ticks_are_round_and_hold_all_values(values: list[float], texts: list[str]) -> None:
    axis = linear_axis(values, (None, None))
    assert [text for _, text in axis.ticks] == texts
    assert axis.low <= min(values) and axis.high >= max(values)


def test_large_and_small_ticks_are_short() -> None:
    assert [tick_text(10.0**n) for n in (-5, 3, 4, 6)] == ["1e-05", "1,000", "10,000", "1e+06"]


def test_a_long_curve_keeps_its_peaks_and_its_order() -> None:
    points = [(float(n), math.sin(n / 50)) for n in range(10_000)]
    points[5_000] = (5_000.0, 99.0)
    kept = thinned(points)
    assert len(kept) <= 400
    assert (5_000.0, 99.0) in kept
    assert list(kept) == sorted(kept)


def test_a_curve_with_a_spike_is_drawn_on_a_logarithmic_axis() -> None:
    lines = [Line("loss", [(1.0, 2.0), (2.0, 1e6), (3.0, 1.0)])]
    spiked = line_chart("Loss", "epochs", "loss", lines, may_log=True)
    assert spiked is not None and "loss, logarithmic" in spiked.svg
    plain = line_chart("Loss", "epochs", "loss", [Line("loss", [(1.0, 2.0)])], may_log=True)
    assert plain is not None and "logarithmic" not in plain.svg


def test_a_chart_without_points_is_left_out() -> None:
    assert line_chart("Loss", "epochs", "loss", [Line("loss", [])]) is None


def test_a_chart_says_what_it_shows_and_names_are_escaped() -> None:
    lines = [Line("<one>", [(0.0, 1.0), (1.0, 3.0)]), Line("two", [(0.0, 2.0)])]
    chart = line_chart("Loss", "epochs", "nats", lines)
    assert chart is not None
    assert "Loss; horizontally epochs, vertically nats. &lt;one&gt;: from 1 to 3" in chart.svg
    assert "<one>" not in chart.svg
    assert chart.svg.count("<circle") == 3
