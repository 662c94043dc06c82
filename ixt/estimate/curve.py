"""The learning-rate curve: points, a plot for the terminal, a PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ixt.errors import EngineError, first_line
from ixt.files import published

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


def sample_curve(
    learning_rate: Callable[[int], float],
    updates_per_epoch: int,
    num_epochs: int,
    points_per_epoch: int,
) -> Curve:
    """Read the learning rate at evenly spaced updates, the last update included.

    Args:
        learning_rate: of the number of updates done.
        updates_per_epoch: optimizer updates in an epoch.
        num_epochs: of the whole run.
        points_per_epoch: 1 suffices where the rate changes once per epoch.
    """
    total, points = updates_per_epoch * num_epochs, num_epochs * points_per_epoch
    updates = sorted({*(total * point // points for point in range(points)), total - 1})
    return Curve(
        epochs=tuple(update / updates_per_epoch for update in updates),
        values=tuple(learning_rate(update) for update in updates),
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
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise EngineError("--png needs matplotlib; pip install 'ixt[plot]'") from None
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.step(curve.epochs, curve.values, where="post")
    axes.set(title=title, xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    axes.margins(x=0)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with published(path) as file:
        try:
            figure.savefig(file, dpi=150, format=path.suffix[1:] or "png")
        except ValueError as error:  # no such picture format
            raise EngineError(f"{path}: cannot be written: {first_line(error)}") from error
