"""The report as one HTML file, complete in itself: of a run, or of several side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ixt import __version__
from ixt.bench.report.template import Drawing, page_environment
from ixt.errors import printable
from ixt.runs.report.chart import Line, line_chart
from ixt.runs.report.curves import draw_curves, unique_names
from ixt.runs.report.evaluation import Evaluation, Mistake, plain_text
from ixt.runs.report.folder import RunFolder, number
from ixt.runs.report.tables import (
    EpochRow,
    changed_settings,
    class_tables,
    commands,
    differing_settings,
    epoch_row,
    filled_columns,
    label,
    matrix,
    value_text,
)
from ixt.runs.settings import total_epochs

_WEIGHTS = {"raw": "the weights", "ema": "the averaged weights (EMA)"}


def run_html(run: RunFolder) -> str:
    """The page of one run."""
    batch = run.first_batch.images if run.first_batch else []
    return _render(
        "run.html",
        run=run,
        name=printable(run.name),
        lead=_lead(run),
        tiles=_tiles(run),
        remarks=[printable(problem) for problem in run.problems],
        curves=draw_curves([run]),
        **_epoch_terms(_epochs(run)),
        evaluation=run.evaluation,
        **(_evaluation_terms(run.evaluation) if run.evaluation else {}),
        first_batch=[(image.picture, target_lines(image.targets)) for image in batch],
        changed=changed_settings(run),
        recipe=[(key, value_text(value)) for key, value in run.recipe.items()],
        machine=_machine(run),
        commands=commands(run),
    )


def comparison_html(runs: Sequence[RunFolder]) -> str:
    """The page of several runs: a line per run in each plot, and where their recipes differ."""
    names = unique_names(runs)
    named = list(zip(names, runs, strict=True))
    return _render(
        "comparison.html",
        names=names,
        paths=[printable(str(run.path)) for run in runs],
        remarks=[f"{name}: {printable(text)}" for name, run in named for text in run.problems],
        curves=draw_curves(runs),
        **_epoch_terms(
            row._replace(name=f"{name}, {row.name}") for name, run in named for row in _epochs(run)
        ),
        settings=differing_settings(runs),
        without_recipe=[name for name, run in named if not run.recipe],
    )


def _render(template: str, **terms: Any) -> str:
    page = page_environment(__file__).get_template(template)
    return plain_text(page.render(version=__version__, **terms))


def _evaluation_terms(evaluation: Evaluation) -> dict[str, Any]:
    """What the page says about an evaluation besides its own fields."""
    return {
        "weights": _WEIGHTS[evaluation.weights],
        "names": [label(name) for name in evaluation.class_names],
        "matrix": matrix(evaluation),
        "class_tables": class_tables(evaluation),
        "calibration": _reliability(evaluation) if evaluation.count and evaluation.bins else None,
        "mistakes": [
            (found, mistake_lines(found, evaluation.class_names), printable(found.file))
            for found in evaluation.mistakes
        ],
    }


def _lead(run: RunFolder) -> str:
    model, root = run.recipe.get("model.name"), run.recipe.get("data.root")
    words = [str(model or "a model"), f"trained on {root}" if root else ""]
    done = f"{run.last_step:,} updates"
    if run.updates_per_epoch:
        total = total_epochs(run.recipe)
        whole = f" of {total:,}" if total else ""
        done += f", {run.last_step / run.updates_per_epoch:.4g}{whole} epochs"
    return printable(", ".join([" ".join(filter(None, words)), done])) + "."


def _tiles(run: RunFolder) -> list[tuple[str, str]]:
    """Large numbers and what they are."""
    tiles = []
    if (best := run.best) is not None:
        what = f"best {run.score_name}, after epoch {best['epoch']}"
        tiles.append((f"{best[run.score_key]:.2f} %", what))
        last = number(run.epochs[-1], run.score_key)
        if last is not None:
            what = f"last {run.score_name}, after epoch {run.epochs[-1]['epoch']}"
            tiles.append((f"{last:.2f} %", what))
    if run.evaluation is not None and run.evaluation.count and run.evaluation.bins:
        error = run.evaluation.calibration_error
        tiles.append((f"{error:.3f}", "calibration error (ECE)"))
    rates = sorted(filter(None, (number(row, "images_per_s") for row in run.steps)))
    if rates:
        tiles.append((f"{rates[len(rates) // 2]:,.4g}", "images per second, the median"))
    return tiles


def _epochs(run: RunFolder) -> list[EpochRow]:
    rows = [("best", run.best), ("last", run.epochs[-1] if run.epochs else None)]
    return [epoch_row(name, row) for name, row in rows if row is not None]


def _epoch_terms(rows: Iterable[EpochRow]) -> dict[str, Any]:
    columns, epochs = filled_columns(list(rows))
    return {"epoch_columns": columns, "epochs": epochs}


def _reliability(evaluation: Evaluation) -> Drawing | None:
    """How often the model is right, against how sure it is."""
    bins = [found for found in evaluation.bins if found.count]
    points = [(found.confidence, found.accuracy) for found in bins]
    tips = [
        f"{found.count:,} images with confidence {found.confidence:.3f}: "
        f"{found.accuracy:.1%} are right"
        for found in bins
    ]
    return line_chart(
        "Reliability",
        "mean confidence of a bin",
        "share that is right",
        [
            Line("confidence that is right", [(0.0, 0.0), (1.0, 1.0)], 7, dashed=True),
            Line("this model", points, 1, tips=tips),
        ],
        y_range=(0.0, 1.0),
        caption=f"Expected calibration error {evaluation.calibration_error:.4f}, of "
        f"{sum(found.count for found in bins):,} images in {len(evaluation.bins)} bins of equal "
        "width. Below the diagonal the model is too sure, "
        "above it not sure enough; training with mixed or smoothed labels makes it less sure.",
    )


def target_lines(targets: Sequence[tuple[str, float]]) -> tuple[str, ...]:
    """What stands beneath an image of a training batch: its classes and their shares."""
    if not targets:
        return ("left out: the file is damaged",)
    return tuple(f"{label(name)} {share:.0%}" for name, share in targets)


def mistake_lines(mistake: Mistake, class_names: Sequence[str]) -> tuple[str, ...]:
    """What stands beneath a wrongly predicted image."""
    predicted = label(class_names[mistake.prediction])
    labels = [mistake.label] if isinstance(mistake.label, int) else mistake.label
    right = ", ".join(label(class_names[each]) for each in labels)
    return f"{predicted} {mistake.confidence:.0%}", f"is {right}"


def _machine(run: RunFolder) -> list[tuple[str, str]]:
    """Names and values; what a machine has none of is left out."""
    terms = {key: value for key, value in run.machine.items() if key != "packages"}
    packages = run.machine.get("packages")
    terms |= packages if isinstance(packages, dict) else {}
    return [
        (str(key).replace("_", " "), _machine_text(value))
        for key, value in terms.items()
        if value not in (None, [], "")
    ]


def _machine_text(value: Any) -> str:
    if isinstance(value, list):
        return printable(" ".join(map(str, value)))
    return value_text(value)
