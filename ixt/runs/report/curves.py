"""The curves of a run, or of several in one plot each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ixt.bench.report.template import Drawing
from ixt.errors import printable
from ixt.runs.report.chart import Line, Point, line_chart
from ixt.runs.report.folder import Row, RunFolder, number

_COLOURS = 8


class _Curve(NamedTuple):
    """A column of the rows."""

    name: str
    key: str
    of_epochs: bool = False
    """Whether it is in the rows of evaluations."""


class _Plot(NamedTuple):
    """What one chart shows."""

    title: str
    unit: str
    curves: tuple[_Curve, ...]
    factor: float = 1.0
    from_zero: bool = False
    may_log: bool = False


_PLOTS = (
    _Plot(
        "Loss",
        "cross entropy",
        (
            _Curve("training", "loss"),
            _Curve("validation", "loss", True),
            _Curve("validation, EMA", "ema_loss", True),
        ),
        may_log=True,
    ),
    _Plot(
        "Mean average precision",
        "% (mAP)",
        (_Curve("weights", "map", True), _Curve("EMA", "ema_map", True)),
    ),
    _Plot(
        "Top-1 accuracy",
        "% of validation images",
        (_Curve("weights", "top1", True), _Curve("EMA", "ema_top1", True)),
    ),
    _Plot(
        "Top-5 accuracy",
        "% of validation images",
        (_Curve("weights", "top5", True), _Curve("EMA", "ema_top5", True)),
    ),
    _Plot("Learning rate", "learning rate", (_Curve("", "lr"),), from_zero=True),
    _Plot("Throughput", "images per second", (_Curve("", "images_per_s"),), from_zero=True),
    _Plot("Waiting for data", "% of the time", (_Curve("", "data_wait"),), 100.0, from_zero=True),
)


def draw_curves(runs: Sequence[RunFolder]) -> list[Drawing]:
    """Loss, accuracies, learning rate, throughput and waiting; several runs get a line each.

    Of several runs each plot shows the curve by which runs are compared: of accuracies that of the
    averaged weights where there are some, of the loss that of training and of validation.
    """
    by_epoch = all(run.updates_per_epoch for run in runs)
    x = "epochs trained" if by_epoch else "updates"
    drawings = []
    for plot in _PLOTS:
        if len(runs) == 1:
            drawings.append(_draw(plot, x, _lines(runs[0], plot, by_epoch)))
            continue
        for curve in _compared(plot, runs):
            single = plot._replace(title=f"{plot.title}{curve.name and f', {curve.name}'}")
            lines = [
                Line(
                    name,
                    _points(run, curve, plot.factor, by_epoch),
                    place % _COLOURS + 1,
                    dashed=place // _COLOURS % 2 == 1,
                )
                for place, (name, run) in enumerate(zip(unique_names(runs), runs, strict=True))
            ]
            drawings.append(_draw(single, x, lines))
    return [drawing for drawing in drawings if drawing is not None]


def unique_names(runs: Sequence[RunFolder]) -> list[str]:
    """Names that tell runs apart: of their folders, with as much of the path as that takes."""
    names = [str(run.path) for run in runs]
    for parts in range(1, max(len(run.path.parts) for run in runs)):
        names = ["/".join(run.path.parts[-parts:]) for run in runs]
        if len(set(names)) == len(runs):
            break
    return [printable(name) for name in names]


def _compared(plot: _Plot, runs: Sequence[RunFolder]) -> list[_Curve]:
    """The curves of a plot that are shown of several runs: averaged weights before raw ones."""
    averaged = all(run.score_key.startswith("ema_") for run in runs)
    names = {curve.key.removeprefix("ema_") for curve in plot.curves if curve.of_epochs}
    keys = {f"ema_{name}" if averaged else name for name in names}
    return [curve for curve in plot.curves if not curve.of_epochs or curve.key in keys]


def _lines(run: RunFolder, plot: _Plot, by_epoch: bool) -> list[Line]:
    return [
        Line(curve.name or plot.title, _points(run, curve, plot.factor, by_epoch), place)
        for place, curve in enumerate(plot.curves, 1)
    ]


def _points(run: RunFolder, curve: _Curve, factor: float, by_epoch: bool) -> list[Point]:
    rows: list[Row] = run.epochs if curve.of_epochs else run.steps
    each = run.updates_per_epoch if by_epoch else 1.0
    assert each
    values = ((row["step"] / each, number(row, curve.key)) for row in rows)
    return [(at, factor * value) for at, value in values if value is not None]


def _draw(plot: _Plot, x: str, lines: Sequence[Line]) -> Drawing | None:
    low = 0.0 if plot.from_zero else None
    return line_chart(plot.title, x, plot.unit, lines, y_range=(low, None), may_log=plot.may_log)
