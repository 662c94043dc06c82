from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind

from ixt.bench.compare import compare, compare_rows, print_comparison
from ixt.bench.differences import find_differences, refuse_decisive
from ixt.bench.results import Cell, Protocol, Report, Row, Timing
from ixt.errors import EngineError

THRESHOLD, CONFIDENCE = 0.01, 0.95
MACHINE = {"devices": [], "cpu": "x", "cpu_cores": 2, "packages": {"torch": "2.14.1"}}


def timing(rates: Any, **checks: Any) -> Timing:
    return Timing(
        rates=tuple(map(float, rates)),
        warmup_s=1.0,
        settled=True,
        peak_allocated_gib=None,
        peak_reserved_gib=None,
        peak_resident_gib=1.0,
        images_per_joule=None,
        throttled=(),
        checks=checks,
    )


def row(*rounds: Any, model: str = "resnet18", error: str | None = None, **checks: Any) -> Row:
    return Row(
        model=model,
        mode="train",
        layout="contiguous",
        precision="fp32",
        compile=False,
        batch_size=4,
        image_size=64,
        error=error,
        params=1,
        macs=2,
        rounds=tuple(timing(rates, **checks) for rates in rounds),
    )


def report(*rows: Row, **changes: Any) -> Report:
    given = {"protocol": Protocol(), "machine": MACHINE, "rows": rows}
    return Report(**{**given, **changes})


def measured(
    rng: np.random.Generator, rounds: int, rate: float = 100.0, noise: float = 0.003
) -> Row:
    """Rounds that differ by `noise`, of windows that follow one another (AR(1), 0.9)."""
    found = []
    for _ in range(rounds):
        wander = [rng.normal(0, 0.002)]
        for _ in range(9):
            wander.append(0.9 * wander[-1] + rng.normal(0, 0.002 * math.sqrt(1 - 0.9**2)))
        found.append(rate * np.exp(rng.normal(0, noise) + np.array(wander)))
    return row(*found)


def verdicts(rounds: tuple[int, int], rate: float, noise: float, times: int = 400) -> list[str]:
    rng = np.random.default_rng(7)
    return [
        compare_rows(
            measured(rng, rounds[0], noise=noise),
            measured(rng, rounds[1], rate, noise),
            THRESHOLD,
            CONFIDENCE,
        ).verdict
        for _ in range(times)
    ]


def share(found: list[str], *wanted: str) -> float:
    return sum(verdict in wanted for verdict in found) / len(found)


@pytest.mark.parametrize("rounds", [(2, 2), (2, 4), (5, 5)])
@pytest.mark.parametrize("noise", [0.003, 0.03])
def test_no_change_gets_a_wrong_verdict_no_more_often_than_stated(
    rounds: tuple[int, int], noise: float
) -> None:
    wrong = share(verdicts(rounds, 100.0, noise), "faster", "slower")
    # Three standard errors of 400 simulations at 5 %.
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_windows_counted_as_independent_would_be_wrong_most_of_the_time() -> None:
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(200):
        a, b = (
            np.log([rate for t in measured(rng, 2).rounds for rate in t.rates]) for _ in range(2)
        )
        wrong += ttest_ind(a, b).pvalue < 0.05
    assert wrong > 0.4 * 200


def test_a_change_of_three_percent_is_found_in_its_direction() -> None:
    found = verdicts((3, 3), 97.0, 0.003)
    assert share(found, "slower") > 0.95
    assert share(found, "faster") == 0
    assert share(verdicts((3, 3), 103.0, 0.003), "faster") > 0.95


def test_noise_as_large_as_the_change_gives_no_verdict() -> None:
    found = verdicts((2, 2), 97.0, 0.03)
    assert share(found, "cannot tell") > 0.8


def test_no_change_with_little_noise_is_called_the_same() -> None:
    assert share(verdicts((3, 3), 100.0, 0.001), "same") > 0.95


def test_a_drift_between_rounds_widens_the_interval_instead_of_deceiving() -> None:
    drifting = row(*(np.full(10, 100.0 * 0.98**k) for k in range(3)))
    result = compare_rows(row([100] * 10, [100] * 10, [100] * 10), drifting, THRESHOLD, CONFIDENCE)
    assert result.verdict == "cannot tell"
    assert result.low is not None and result.high is not None
    assert result.low < 0.98 < 1 < result.high


def test_the_interval_is_that_of_a_t_test_on_the_rounds() -> None:
    a, b = row([99, 100, 101], [103] * 3), row([110] * 3, [108] * 3, [111] * 3)
    result = compare_rows(a, b, THRESHOLD, CONFIDENCE)
    expected = ttest_ind(np.log([110, 108, 111]), np.log([100, 103])).confidence_interval(0.95)
    assert result.low == pytest.approx(math.exp(expected.low))
    assert result.high == pytest.approx(math.exp(expected.high))
    assert result.ratio == pytest.approx((110 * 108 * 111) ** (1 / 3) / (100 * 103) ** 0.5)
    assert result.verdict == "faster"


def test_one_round_each_says_nothing() -> None:
    result = compare_rows(row([100] * 10), row([50] * 10), THRESHOLD, CONFIDENCE)
    assert (result.verdict, result.low) == ("cannot tell", None)
    assert result.ratio == pytest.approx(0.5)
    assert "--rounds 3" in result.reason


def test_a_cell_that_no_longer_runs_is_a_regression_and_one_that_never_ran_is_not() -> None:
    fine, broken = row([1] * 3, [1] * 3), row(error="out of memory")
    assert compare(report(fine), report(broken)).regressed
    result = compare(report(broken), report(fine))
    assert (result.cells[0].verdict, result.cells[0].reason) == ("cannot tell", "A: out of memory")
    assert not result.regressed


def test_cells_in_one_report_only_are_listed() -> None:
    rows = [row([1] * 3, [1] * 3, model=name) for name in ("one", "two", "three")]
    result = compare(report(*rows[:2]), report(*rows[1:]))
    assert [cell.model for cell in result.only_a] == ["one"]
    assert [cell.model for cell in result.only_b] == ["three"]
    with pytest.raises(EngineError, match="no cell in common"):
        compare(report(rows[0]), report(rows[2]))


def test_what_differs_is_named_and_decisive_things_are_refused() -> None:
    reading = {"driver": "570.1", "power_limit_w": 700.0, "sm_mhz": 1980}
    other = {"driver": "580.2", "power_limit_w": 700.0, "sm_mhz": 1410}
    a = report(row([1] * 3, readings=[reading], threads=1))
    software = {**MACHINE, "packages": {"torch": "2.15.0"}, "git_commit": "1"}
    b = report(row([1] * 3, readings=[other], threads=1), machine=software)
    differences = find_differences(a, b)
    assert [str(difference) for difference in differences] == [
        "torch (2.14.1; 2.15.0)",
        "driver (570.1; 580.2)",
        "SM clock in MHz (2000; 1400)",
    ]
    refuse_decisive(tuple(differences))
    hardware = {**MACHINE, "devices": ["NVIDIA H100 80GB HBM3"]}
    c = report(row([1] * 3, threads=2), machine=hardware, protocol=Protocol(seconds=1, rounds=3))
    expected = (
        r"protocol seconds \(20.0; 1.0\), devices \(none; NVIDIA H100 80GB HBM3\), "
        r"threads \(1; 2\), which says nothing about the code"
    )
    with pytest.raises(EngineError, match=expected):
        refuse_decisive(tuple(find_differences(a, c)))


def test_another_model_under_the_same_name_is_named() -> None:
    a, b = row([1] * 3), row([1] * 3).model_copy(update={"params": 7})
    (difference,) = find_differences(report(a), report(b))
    assert difference.decisive
    assert difference.b == "resnet18 of 7 parameters, 2 MACs"


def test_the_printed_comparison_shows_cells_verdicts_and_what_chance_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    a = report(row([100] * 3, [100.2] * 3), row([5] * 3, model="gone"))
    b = report(row([90] * 3, [90.2] * 3), row([5] * 3, model="new"))
    print_comparison(compare(a, b))
    text = capsys.readouterr().out
    (line,) = [line for line in text.splitlines() if "resnet18" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == [
        "resnet18 train contiguous fp32 batch 4", "0.900", "0.894 to 0.906", "slower", "",
    ]  # fmt: skip
    assert "only in A: gone train contiguous fp32 batch 4" in text
    assert "only in B: new train contiguous fp32 batch 4" in text
    assert "1 slower. Within 1.0% is the same; of 1 unchanged cells chance alone calls" in text


def test_cells_keep_their_order() -> None:
    rows = [row([1] * 3, [1] * 3, model=name) for name in ("b", "a", "c")]
    cells: list[Cell] = [cell.cell for cell in compare(report(*rows), report(*rows[::-1])).cells]
    assert [cell.model for cell in cells] == ["b", "a", "c"]
