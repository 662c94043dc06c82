"""Whether one benchmark is faster than another, cell by cell, beyond what noise explains.

The windows of one process are not independent: they share a memory layout, chosen algorithms and
a temperature. So a round, a fresh process each, counts as one observation, the median of its
windows. Nothing is said of a cell that has one round on either side.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import linregress
from scipy.stats import t as student

from ixt.bench.console import print_lines, print_table
from ixt.bench.differences import Difference, find_differences
from ixt.bench.results import Cell, Report, Row
from ixt.errors import EngineError

Verdict = Literal["faster", "slower", "same", "cannot tell", "fails"]


@dataclass(frozen=True)
class CellComparison:
    """A cell of both reports."""

    cell: Cell
    verdict: Verdict
    ratio: float | None = None
    """Rate of B over that of A; None where a side has no rate."""
    low: float | None = None
    """Lower end of the ratio's confidence interval; None where no round repeats another."""
    high: float | None = None
    reason: str = ""
    """Why there is no verdict."""


@dataclass(frozen=True)
class Comparison:
    """Two reports, A the older one."""

    cells: tuple[CellComparison, ...]
    """Those measured in both."""
    only_a: tuple[Cell, ...]
    only_b: tuple[Cell, ...]
    differences: tuple[Difference, ...]
    threshold: float
    confidence: float

    @property
    def regressed(self) -> bool:
        """Whether a cell is slower in B, or was measured in A and fails in B."""
        return any(cell.verdict in ("slower", "fails") for cell in self.cells)


def compare(
    a: Report, b: Report, *, threshold: float = 0.01, confidence: float = 0.95
) -> Comparison:
    """Compare two benchmarks of the same cells.

    `threshold` is the change, as a fraction, below which two rates count as the same. Of many
    unchanged cells a share of up to 1 - `confidence` gets a wrong verdict, and less where the noise
    is well below the threshold.

    Raises:
        EngineError: the reports have no cell in common.
    """
    rows_a, rows_b = ({row.cell: row for row in report.rows} for report in (a, b))
    shared = [cell for cell in rows_a if cell in rows_b]
    if not shared:
        raise EngineError(
            "the two results files have no cell in common: they differ in models, modes, layouts, "
            "precisions, batch or image sizes; measure the same command twice"
        )
    return Comparison(
        cells=tuple(
            compare_rows(rows_a[cell], rows_b[cell], threshold, confidence) for cell in shared
        ),
        only_a=tuple(cell for cell in rows_a if cell not in rows_b),
        only_b=tuple(cell for cell in rows_b if cell not in rows_a),
        differences=tuple(find_differences(a, b)),
        threshold=threshold,
        confidence=confidence,
    )


def compare_rows(a: Row, b: Row, threshold: float, confidence: float) -> CellComparison:
    """Compare one cell; the interval is Student's, on the log rates of the rounds.

    Both sides share one variance, as the same machine and protocol give them the same noise: with
    two or three rounds a side, variances of their own would tell next to nothing.

    `same` means that the whole interval lies within the threshold; `faster` and `slower` that the
    interval excludes no change and the ratio lies beyond the threshold; `fails` that A was
    measured and B has an error.
    """
    if a.error is not None or b.error is not None:
        if a.error is None:
            return CellComparison(a.cell, "fails", reason=f"B: {b.error}")
        return CellComparison(a.cell, "cannot tell", reason=f"A: {a.error}")
    logs = [[math.log(statistics.median(t.rates)) for t in row.rounds] for row in (a, b)]
    counts = [len(each) for each in logs]
    if counts == [1, 1]:
        reason = "one round each shows no noise; use --rounds 3"
        return CellComparison(
            a.cell, "cannot tell", math.exp(logs[1][0] - logs[0][0]), reason=reason
        )
    # The slope over 0 for A and 1 for B is the difference of the means.
    fit = linregress(np.repeat([0, 1], counts), np.concatenate(logs))
    half = float(student.ppf((1 + confidence) / 2, sum(counts) - 2)) * fit.stderr
    difference = float(fit.slope)
    low, high = difference - half, difference + half
    verdict = _verdict(difference, low, high, math.log1p(threshold))
    hidden = f"noise hides it; {counts[0]} and {counts[1]} rounds, measure more"
    reason = hidden if verdict == "cannot tell" else ""
    ends = math.exp(difference), math.exp(low), math.exp(high)
    return CellComparison(a.cell, verdict, *ends, reason)


def _verdict(difference: float, low: float, high: float, threshold: float) -> Verdict:
    if -threshold <= low and high <= threshold:
        return "same"
    if low > 0 and difference > threshold:
        return "faster"
    if high < 0 and difference < -threshold:
        return "slower"
    return "cannot tell"


_STYLES = {"faster": "green", "slower": "bold red", "fails": "bold red", "cannot tell": "yellow"}


def print_comparison(comparison: Comparison) -> None:
    """Print what differs between the machines, a line per cell, and a summary."""
    for difference in comparison.differences:
        weight = "warning" if difference.decisive else "note"
        print_lines([f"{weight}: A and B differ in {difference}"])
    print_table(
        ("cell", "B / A", f"{100 * comparison.confidence:g} % interval", "verdict", "remark"),
        map(_line, comparison.cells),
        words=("cell", "verdict", "remark"),
        title="B over A, images per second",
    )
    print_lines(f"only in A: {cell.name}" for cell in comparison.only_a)
    print_lines(f"only in B: {cell.name}" for cell in comparison.only_b)
    print_lines([_summary(comparison)])


def _line(cell: CellComparison) -> list[str]:
    style = _STYLES.get(cell.verdict)
    return [
        cell.cell.name,
        "" if cell.ratio is None else f"{cell.ratio:.3f}",
        "" if cell.low is None else f"{cell.low:.3f} to {cell.high:.3f}",
        f"[{style}]{cell.verdict}[/{style}]" if style else cell.verdict,
        cell.reason,
    ]


def _summary(comparison: Comparison) -> str:
    counts = Counter(cell.verdict for cell in comparison.cells)
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    wrong = (1 - comparison.confidence) * len(comparison.cells)
    return (
        f"{found}. Within {comparison.threshold:.1%} is the same; of {len(comparison.cells)} "
        f"unchanged cells chance alone calls at most {wrong:.1f} faster or slower."
    )
