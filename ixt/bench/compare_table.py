"""A comparison of two benchmarks for the terminal."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from ixt.bench.compare import CellComparison, Comparison

_FILE_WIDTH = 160  # characters, where the output is no terminal that would wrap them
_STYLES = {"faster": "green", "slower": "bold red", "fails": "bold red", "cannot tell": "yellow"}


def print_comparison(comparison: Comparison) -> None:
    """Print what differs between the machines, a line per cell, and a summary."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    for difference in comparison.differences:
        weight = "warning" if difference.decisive else "note"
        line = f"{weight}: A and B differ in {difference}"
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    table = Table(title="B over A, images per second")
    columns = ("cell", "B / A", f"{100 * comparison.confidence:g} % interval", "verdict", "remark")
    for name in columns:
        table.add_column(name, justify="left" if name in ("cell", "verdict", "remark") else "right")
    for cell in comparison.cells:
        table.add_row(*_line(cell))
    console.print(table)
    for cells, where in ((comparison.only_a, "A"), (comparison.only_b, "B")):
        for alone in cells:
            console.print(f"only in {where}: {alone.name}", highlight=False, soft_wrap=True)
    console.print(_summary(comparison), highlight=False, soft_wrap=True)


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
