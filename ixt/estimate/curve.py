"""The learning-rate curve: points, a plot for the terminal, a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ixt.costs import kept_count
from ixt.errors import EngineError, first_line
from ixt.estimate.steps import Steps
from ixt.files import published
from ixt.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Curve:
    """The learning rate over a run."""

    epochs: tuple[float, ...]
    """Where it was read, in epochs from the start."""
    values: tuple[float, ...]
    """Learning rate of the update that comes next there."""

    @property
    def peak(self) -> float:
        """The highest learning rate that is really reached."""
        return max(self.values)


def sample_curve(recipe: Recipe, steps: Steps) -> Curve:
    """Read the learning rate at some 1,200 evenly spaced updates, the last update included.

    Where it changes once per epoch, once per epoch suffices.
    """
    points = steps.epochs
    if recipe.schedule.unit != "epoch":
        points *= max(1, min(steps.updates_per_epoch, 1200 // steps.epochs))
    updates = sorted({*(steps.updates * n // points for n in range(points)), steps.updates - 1})
    per_epoch = steps.updates_per_epoch

    def count() -> list[float]:
        from ixt.training.optimizer import learning_rate

        return [*map(learning_rate(recipe, per_epoch), updates)]

    schedule = recipe.schedule.model_dump(mode="json")
    inputs = [schedule, recipe.optim.lr, recipe.image_size_by_epoch(), per_epoch, updates]
    return Curve(
        epochs=tuple(update / per_epoch for update in updates),
        values=tuple(kept_count("learning-rate", inputs, count)),
    )


def draw_curve(values: Sequence[float], width: int, height: int) -> list[str]:
    """Draw values as columns of block characters, the highest as tall as the plot.

    Args:
        values: at least one, none negative.
        width: columns; each shows the mean of its share of the values.
        height: rows; each holds eight steps.

    Returns:
        `height` lines of `width` characters, the top one first.
    """
    top = max(values) or 1.0
    columns = []
    for column in range(width):
        first = column * len(values) // width
        share = values[first : max(first + 1, (column + 1) * len(values) // width)]
        columns.append(round(8 * height * sum(share) / len(share) / top))
    return [
        "".join(_EIGHTHS[min(8, max(0, level - 8 * row))] for level in columns)
        for row in reversed(range(height))
    ]


def write_curve(curve: Curve, title: str, path: Path) -> None:
    """Write the curve as a picture; the suffix of the path chooses the format.

    Raises:
        EngineError: matplotlib is not installed, or the format is not one of its own.
        OSError: the file cannot be written.
    """
    from ixt.bench.report.svg import figure_class

    figure = figure_class("--png needs matplotlib")(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.step(curve.epochs, curve.values, where="post")
    axes.set(title=title, xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    axes.margins(x=0)
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure; the suffix of the path chooses the format.

    Raises:
        EngineError: the format is not one of matplotlib's.
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with published(path) as file:
        try:
            figure.savefig(file, dpi=150, format=path.suffix[1:] or "png")
        except ValueError as error:  # no such picture format
            raise EngineError(f"{path}: cannot be written: {first_line(error)}") from error
