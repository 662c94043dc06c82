"""The convergence band of a recipe: what its seeds reached, and what a run must reach to be right.

A band is a two-sided tolerance interval of the normal distribution (Howe 1969) over the seeds: with
CONFIDENCE it holds at least COVERAGE of what seeds reach. There is one for the EMA's top-1, rounded
outwards to whole images, and one for its validation loss, after each of a few epochs. That both are
about normal from seed to seed is assumed; eight seeds cannot show it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from scipy.stats import chi2, norm

from ixt.recipe import Recipe, RunSettings, parse_stored

CONFIDENCE, COVERAGE = 0.95, 0.99
MIN_SEEDS = 8
NUM_POINTS = 4  # of the curve, the end included
_LOSS_UNITS = 10_000  # bounds of the loss have four decimals
# Settings that change no weights and no evaluation.
_WITHOUT_EFFECT = {
    "data": ("root", "num_threads", "prefetch_batches"),
    "engine": ("hang_timeout_s",),
    "run": tuple(key for key in RunSettings.model_fields if key != "seed"),
}
RESULTS = Path(__file__).resolve().parents[1] / "results"

Stack = dict[str, str | int | None]


class Part(BaseModel):
    """A frozen piece of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Curves(Part):
    """What averaged weights reach on the validation images, after each epoch."""

    correct: tuple[int, ...]
    """Images that are classified correctly."""
    loss: tuple[float, ...]
    """Mean loss."""


class SeedRun(Part):
    """A run of the recipe with one seed."""

    seed: int
    ema: Curves
    sha256: dict[str, str]
    """Of the last checkpoint's files of weights, by name."""


class BrokenRun(Part):
    """A run with a mistake in it, which shows what the band is able to notice."""

    override: str
    """The mistake, as `--set` has it."""
    ema: Curves


class Point(Part):
    """The band after one epoch: lowest and highest right value."""

    epoch: int
    correct: tuple[int, int]
    loss: tuple[float, float]


class Record(Part):
    """All that was measured of one recipe, and the band that follows."""

    recipe: dict[str, Any]
    """Every setting, defaults included."""
    stack: Stack
    """What decides about bits: versions, processor, threads, data."""
    commit: str | None
    """Commit of ixt that was measured."""
    num_images: int
    """Validation images."""
    confidence: float = CONFIDENCE
    coverage: float = COVERAGE
    runs: tuple[SeedRun, ...]
    band: tuple[Point, ...]
    broken: tuple[BrokenRun, ...]

    @property
    def final(self) -> Point:
        """The band of the last epoch."""
        return self.band[-1]

    @property
    def final_top1(self) -> list[float]:
        """EMA top-1 of each seed after the last epoch, in percent."""
        return [self.percent(run.ema.correct[-1]) for run in self.runs]

    def percent(self, correct: int) -> float:
        """Top-1 of a number of images that are classified correctly."""
        return 100 * correct / self.num_images


def record_path(recipe_file: Path) -> Path:
    """Where the band of a recipe lies."""
    return RESULTS / f"bands_{recipe_file.stem}.json"


def tolerance_factor(num_seeds: int) -> float:
    """Half the width of a tolerance interval, in standard deviations; within 1 % of the exact one.

    Source: W. G. Howe, "Two-sided Tolerance Limits for Normal Populations", JASA 64, 1969.
    """
    freedom = num_seeds - 1
    unlikely = chi2.ppf(1 - CONFIDENCE, freedom)
    spread = math.sqrt(freedom * (1 + 1 / num_seeds) / unlikely)
    return float(norm.ppf((1 + COVERAGE) / 2) * spread)


def band_of(runs: Sequence[Curves], num_images: int) -> tuple[Point, ...]:
    """The band that follows from the runs of several seeds."""
    epochs = len(runs[0].correct)
    after = sorted({max(1, epochs * part // NUM_POINTS) for part in range(1, NUM_POINTS + 1)})
    return tuple(_point(runs, epoch, num_images) for epoch in after)


def _point(runs: Sequence[Curves], epoch: int, num_images: int) -> Point:
    fewest, most = _interval([run.correct[epoch - 1] for run in runs])
    least, greatest = _interval([run.loss[epoch - 1] * _LOSS_UNITS for run in runs])
    return Point(
        epoch=epoch,
        correct=(max(0, fewest), min(num_images, most)),
        loss=(max(0, least) / _LOSS_UNITS, greatest / _LOSS_UNITS),
    )


def _interval(values: Sequence[float]) -> tuple[int, int]:
    """The tolerance interval, rounded outwards to whole numbers."""
    mean = statistics.fmean(values)
    reach = tolerance_factor(len(values)) * statistics.stdev(values)
    return math.floor(mean - reach), math.ceil(mean + reach)


def outside(record: Record, run: Curves) -> list[str]:
    """Where a run leaves the band, in words; empty for one within."""
    if len(run.correct) != record.final.epoch:
        return [f"has {len(run.correct)} epochs, the band {record.final.epoch}"]
    found = []
    for at in record.band:
        correct, loss = run.correct[at.epoch - 1], run.loss[at.epoch - 1]
        if not at.correct[0] <= correct <= at.correct[1]:
            low, high = map(record.percent, at.correct)
            top1 = f"EMA top-1 {record.percent(correct):.2f}"
            found.append(f"epoch {at.epoch}: {top1}, the band is {low:.2f} to {high:.2f}")
        if not at.loss[0] <= loss <= at.loss[1]:
            low, high = at.loss
            found.append(f"epoch {at.epoch}: EMA loss {loss:.4f}, the band is {low} to {high}")
    return found


def other_bits(recorded: SeedRun, sha256: Mapping[str, str]) -> list[str]:
    """The files of weights that are not those recorded for a seed."""
    return [
        f"{name}: other bits than recorded, on the same stack"
        for name, digest in recorded.sha256.items()
        if sha256.get(name) != digest
    ]


def stack_changes(record: Record, stack: Stack) -> list[str]:
    """What differs from the stack that was measured; empty where bits must be equal."""
    return [
        f"{key} was {record.stack.get(key)} and is {stack.get(key)}"
        for key in sorted(record.stack.keys() | stack.keys())
        if record.stack.get(key) != stack.get(key)
    ]


def stale(record: Record, recipe: Recipe) -> list[str]:
    """In which settings the measured recipe is not today's; empty where the band is still its own.

    Settings are compared, not the text of the file, whose comment names the band, and no digest of
    them: a setting that ixt gets later has its default in both.
    """
    was, now = parse_stored(record.recipe).model_dump(), recipe.model_dump()
    return [
        f"{section}.{key} was {was[section][key]} and is {value}"
        for section, values in now.items()
        for key, value in values.items()
        if value != was[section][key] and key not in _WITHOUT_EFFECT.get(section, ())
    ]


def sentence(record: Record) -> str:
    """What the header of the recipe says of its band, in one line."""
    seeds, top1 = [run.seed for run in record.runs], record.final_top1
    low, high = map(record.percent, record.final.correct)
    return (
        f"EMA top-1 {statistics.fmean(top1):.2f} +- {statistics.stdev(top1):.2f}, "
        f"band {low:.2f} to {high:.2f}; seeds {min(seeds)} to {max(seeds)}, "
        f"{record.stack['cpu']}, {record.stack['threads']} thread"
    )


def table(record: Record) -> Iterator[str]:
    """Seeds, band and broken runs as lines of text: top-1 in percent, then the loss."""
    epochs = [at.epoch for at in record.band]
    named = [(f"seed {run.seed}", run.ema) for run in record.runs]
    named += [(f"broken: {run.override}", run.ema) for run in record.broken]
    rows = [(name, *_at(record, run, epochs)) for name, run in named]
    seeds = [(top1, loss) for _, top1, loss in rows[: len(record.runs)]]
    top1s, losses = (list(zip(*part, strict=True)) for part in zip(*seeds, strict=True))
    for name, of in (("mean", statistics.fmean), ("standard deviation", statistics.stdev)):
        rows.append((name, [of(values) for values in top1s], [of(values) for values in losses]))
    for name, end in (("band from", 0), ("band to", 1)):
        top1 = [record.percent(at.correct[end]) for at in record.band]
        rows.append((name, top1, [at.loss[end] for at in record.band]))
    heads = [f"{name} {epoch}" for name in ("top-1", "loss") for epoch in epochs]
    yield f"{'EMA after epoch':32}" + "".join(f"{head:>10}" for head in heads)
    for name, top1, loss in rows:
        cells = [f"{value:.2f}" for value in top1] + [f"{value:.4f}" for value in loss]
        yield f"{name:32}" + "".join(f"{cell:>10}" for cell in cells)


def _at(record: Record, run: Curves, epochs: Sequence[int]) -> tuple[list[float], list[float]]:
    """Top-1 and loss of a run after these epochs."""
    top1 = [record.percent(run.correct[epoch - 1]) for epoch in epochs]
    return top1, [run.loss[epoch - 1] for epoch in epochs]
