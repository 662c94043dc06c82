"""What `ixt bench e2e` does: the training step with its loader, without it, the loader alone."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ixt.bench.console import print_table
from ixt.bench.measure.timing import Timed, time_step
from ixt.bench.results import Protocol
from ixt.distributed.machine import describe_machine
from ixt.monitor.observer import Observers
from ixt.pipeline.loader import Batch
from ixt.recipe import Recipe
from ixt.training.interval import IntervalLog
from ixt.training.loop import micro_step, train_step
from ixt.training.optimizer import set_learning_rate
from ixt.training.run import Run, open_run
from ixt.training.watch import Activity, watched

# Below this the two parts overlap so well that neither is worth a change.
_ENOUGH = 0.95


@dataclass(frozen=True)
class Mode:
    """One of the three measurements."""

    images_per_s: float
    """Median over the windows."""
    images_per_s_of_windows: tuple[float, ...]
    settled: bool
    """Whether the warm-up ended by agreement."""


@dataclass(frozen=True)
class EndToEndReport:
    """What was measured, with one micro-batch per update."""

    device: str
    batch_size: int
    together: Mode
    """Training as it is."""
    synthetic: Mode
    """Training on one batch that stays on the device."""
    loader: Mode
    """The loader with nobody training."""
    data_wait: float
    """Share of the time of training that was spent waiting for batches."""

    @property
    def verdict(self) -> str:
        """What binds training: the loader, the step, or that both want the same cores.

        Says so where a rate that this rests on had not settled.
        """
        modes = {"training": self.together, "synthetic": self.synthetic, "loader": self.loader}
        unsettled = [name for name, mode in modes.items() if not mode.settled]
        doubt = f"; not settled: {', '.join(unsettled)}; give more --seconds" if unsettled else ""
        real, step, loader = (mode.images_per_s for mode in modes.values())
        facts = (
            f"training takes {real:,.0f} images/s, {real / step:.0%} of the {step:,.0f} on "
            f"synthetic batches; the loader alone delivers {loader:,.0f}; {self.data_wait:.0%} of "
            f"the time is spent waiting for data{doubt}"
        )
        if real >= _ENOUGH * step:
            return f"the training step is the bottleneck: {facts}"
        if loader < step:
            return f"the loader is the bottleneck: {facts}"
        return f"loader and step slow each other down (they share cores): {facts}"

    def as_json(self) -> dict[str, Any]:
        """Everything, for a results file."""
        return {"machine": describe_machine(), **asdict(self), "verdict": self.verdict}


def bench_end_to_end(recipe: Recipe, protocol: Protocol) -> EndToEndReport:
    """Measure training with real and with synthetic batches, and the loader.

    The recipe, with data.root set, is trained for a while in a folder that is thrown away, with one
    micro-batch per update, in one process. `protocol` gives the time per mode.

    Raises:
        IxtError: as training.
    """
    with tempfile.TemporaryDirectory() as name:
        short = recipe.in_single_batches(recipe.engine.micro_batch_size)
        short = short.with_(run={"trackers": ()})
        if recipe.teacher.cache is not None:  # its rows are those of other updates, and cost little
            short = short.with_(teacher={"checkpoint": None, "cache": None})
        run = open_run(short, Path(name))
        with watched(run, micro_step):
            return _measure(run, protocol)


def _measure(run: Run, protocol: Protocol) -> EndToEndReport:
    device, size = run.accelerator.device, run.recipe.engine.micro_batch_size
    run.wrapped.train()
    set_learning_rate(run.optimizer, run.learning_rate(0))
    steps, batches = itertools.count(), _batches(run)
    first = next(batches)
    # Cloned: on a GPU the batch may lie in the decoder's memory.
    synthetic = itertools.repeat(replace(first, images=first.images.clone()))
    log = IntervalLog(run)
    run.observers = Observers(Activity(), log)

    def step_with(source: Iterator[Batch]) -> Callable[[], object]:
        return lambda: train_step(run, next(steps), source)

    timed_synthetic = time_step(step_with(synthetic), protocol, device)
    timed_loader = time_step(lambda: next(batches), protocol, device)
    timed_together = time_step(step_with(batches), protocol, device, log.epoch_begins)
    elapsed_s = statistics.fmean(timed_together.seconds_per_step) * timed_together.steps
    return EndToEndReport(
        device=str(device),
        batch_size=size,
        together=_mode(timed_together, size),
        synthetic=_mode(timed_synthetic, size),
        loader=_mode(timed_loader, size),
        data_wait=min(log.waited_s / elapsed_s, 1.0),
    )


def _mode(timed: Timed, batch_size: int) -> Mode:
    rates = tuple(batch_size / seconds for seconds in timed.seconds_per_step)
    return Mode(statistics.median(rates), rates, timed.settled)


def _batches(run: Run) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from run.train_loader.epoch(epoch)


def print_end_to_end(report: EndToEndReport) -> None:
    """A row for each mode, then the verdict."""
    modes = {
        "loader and step": report.together,
        "step, synthetic batches": report.synthetic,
        "loader": report.loader,
    }
    print_table(
        ("mode", "images/s", "settled"),
        [(n, f"{m.images_per_s:,.1f}", "yes" if m.settled else "no") for n, m in modes.items()],
        words=("mode", "settled"),
        title=f"batch {report.batch_size} on {report.device}",
    )
    print(report.verdict)
