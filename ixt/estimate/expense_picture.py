"""The picture of `ixt bench cost`: bars of GPU-hours, and accuracy against them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ixt.bench.report.names import short_name
from ixt.bench.report.svg import Chart, Mark, figure_class, place_names, plain_log_axis
from ixt.estimate.curve import save_figure
from ixt.estimate.expense import Expense, fine_tunes, published_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ABOVE: dict[str, Any] = {
    "loc": "lower center",
    "bbox_to_anchor": (0.5, 1.0),
    "ncols": 4,
    "frameon": False,
}
_OWN, _PAPER = {"color": "C0"}, {"facecolors": "none", "edgecolors": "#888888"}


def draw_expenses(expenses: Sequence[Expense], path: Path) -> None:
    """Write both plots to a file, whose suffix chooses the format.

    Raises:
        EngineError: matplotlib is not installed, or the format is not one of its own.
        OSError: the file cannot be written.
    """
    figure = figure_class("--picture needs matplotlib")(figsize=(13, 5), layout="constrained")
    bars, points = figure.subplots(1, 2)
    _draw_bars(bars, expenses)
    chart = Chart(figure, points, columns=1)
    _draw_points(chart, expenses)
    place_names(chart)
    save_figure(figure, path)


def _draw_bars(axes: Axes, expenses: Sequence[Expense]) -> None:
    """A bar per recipe, of a part for each image size and one for the evaluation."""
    parts = dict.fromkeys(name for expense in expenses for name, _ in expense.gpu_hours)
    colours = {part: f"C{number}" for number, part in enumerate(parts)}
    for row, expense in enumerate(expenses):
        left, found = 0.0, expense.estimate
        for name, hours in expense.gpu_hours:
            axes.barh(row, hours, left=left, color=colours[name])
            left += hours
        price = "" if found.duration.price is None else f", price {found.duration.price:,.0f}"
        axes.text(left, row, f" {left:,.1f} h{price}", va="center")
    for part, colour in colours.items():
        axes.barh(0, 0, color=colour, label=part)
    first = expenses[0].estimate
    kinds = " and ".join(dict.fromkeys(each.estimate.rates.origin for each in expenses))
    axes.set(xlabel=f"GPU-hours on {first.device.name}, rates {kinds}")
    axes.set_yticks(range(len(expenses)), [expense.estimate.name for expense in expenses])
    most = max(expense.estimate.duration.gpu_hours for expense in expenses)
    axes.set_xlim(0, 1.5 * most)  # room for the text
    axes.invert_yaxis()
    axes.legend(**_ABOVE)


def _draw_points(chart: Chart, expenses: Sequence[Expense]) -> None:
    """The paper's models on an A100, and the recipes that have a published accuracy."""
    for name, hours, top1 in published_points():
        chart.draw(Mark(hours, top1, 40, "", short_name(name), ink="#666666"), **_PAPER)
    for expense in expenses:
        if expense.top1 is not None and not fine_tunes(expense.estimate.recipe.model.name):
            found = expense.estimate
            mark = Mark(found.duration.gpu_hours, expense.top1, 60, "", found.name)
            chart.draw(mark, **_OWN)
    chart.explain("the recipes, GPU-hours as in the bars", **_OWN)
    chart.explain("the paper's rates on an A100", **_PAPER)
    ends = [mark.x for mark in chart.marks]
    plain_log_axis(chart.axes, "x", min(ends) / 1.6, max(ends) * 1.6)
    chart.axes.set(xlabel="GPU-hours", ylabel="published ImageNet-1k top-1, %")
    chart.axes.margins(y=0.12)
    chart.axes.legend(**_ABOVE)
