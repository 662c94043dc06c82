"""What surrounds the loop of a run: who watches it, what stops it, and how an update is made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from ixt.distributed import engine
from ixt.distributed.launch import rank_file
from ixt.distributed.signals import StopRequest
from ixt.distributed.stop_agreement import StopAgreement
from ixt.kernels import StepGraph
from ixt.monitor import activity
from ixt.monitor.hang import HangWatch
from ixt.monitor.observer import AfterUpdate, Observer, Observers
from ixt.monitor.profiler import StepProfiler
from ixt.monitor.reporter import SKIPPED
from ixt.pipeline.loader import Batch
from ixt.training.interval import IntervalLog
from ixt.training.micro_batch import out_of_memory_explained
from ixt.training.model import probe_model
from ixt.training.phases import Phases
from ixt.training.run import MicroStep, Run, RunReport
from ixt.training.undo import Undo


@contextmanager
def watched(
    run: Run,
    micro_step: Callable[..., Tensor],
    profile_steps: int = 0,
    report: Callable[[Run], RunReport] | None = None,
) -> Iterator[None]:
    """Prepare a run to be trained and stopped within a `with` block; close it at the end.

    Args:
        run: gets its `micro_step`, `phases`, `observers`, `report` and `stop` for the time of the
            block.
        micro_step: trains on one micro-batch; see `ixt.training.loop.micro_step`.
        profile_steps: steps to trace; 0 for none.
        report: makes what writes the run's report.

    Raises:
        EngineError: memory ran out within the block; the message says what would fit.
        Interrupted: a signal asked to stop; the work is saved.
    """
    log = IntervalLog(run)
    run.micro_step = choose_micro_step(run, micro_step, log)
    run.phases = Phases(run, partial(choose_micro_step, run, micro_step, log))
    with ExitStack() as stack:
        stack.callback(_let_go, run)
        # First: also for the time of closing.
        request = stack.enter_context(StopRequest(forced=not rank_file.has_agent()))
        stack.enter_context(engine.closing(run.accelerator))
        stack.callback(run.reporter.close)
        build = partial(probe_model, run.recipe)
        stack.enter_context(out_of_memory_explained(run.recipe, build, lambda: run.phases.now))
        stack.enter_context(HangWatch(run.run_dir, run.recipe.engine.hang_timeout_s, run.peers))
        run.stop = stack.enter_context(StopAgreement(request))
        stack.enter_context(run.writer)
        # A profile of recorded updates is to show replays.
        skip = run.micro_step.warm_up + 1 if isinstance(run.micro_step, StepGraph) else 0
        profiler = stack.enter_context(
            StepProfiler(run.run_dir, profile_steps, run.reporter.say, skip)
        )
        run.report = RunReport() if report is None else report(run)
        run.observers = Observers(
            AfterUpdate(run.reporter.advance, run.writer.check),
            Activity(),
            AfterUpdate(profiler.step),
            SkippedImages(run.run_dir),
            log,
            run.report,
        )
        yield


def _let_go(run: Run) -> None:
    """Remove a run's references to itself, so that its memory is freed with the last reference."""
    for name in ("micro_step", "phases", "observers", "report", "stop"):
        vars(run).pop(name, None)


def choose_micro_step(run: Run, micro_step: Callable[..., Tensor], log: IntervalLog) -> MicroStep:
    """How this run trains on a micro-batch: recorded as CUDA graphs, undoable, or plainly."""
    if run.graph_stream is not None:
        count = run.accelerator.gradient_accumulation_steps
        run.keeps_gradients = count > 1  # they pass from one replay to the next
        recorded = partial(micro_step, run, nullcontext(), lambda: None)
        return StepGraph(recorded, run.optimizer, run.graph_stream, count)
    if run.undo is not None:
        plain = partial(micro_step, run, log.forward, run.undo.finish_previous)
        return UndoableStep(plain, run.undo, run.accelerator.gradient_accumulation_steps)
    return partial(micro_step, run, log.forward, lambda: None)


class UndoableStep:
    """A micro-step that, after an update's last one, undoes the update unless it is finite."""

    def __init__(self, micro_step: MicroStep, undo: Undo, micro_batches: int) -> None:
        self._micro_step, self._undo, self._last = micro_step, undo, micro_batches - 1
        self._losses: list[Tensor] = []

    def __call__(self, place: int, images: Tensor, targets: Tensor) -> Tensor:
        """Train on one micro-batch; see `ixt.training.loop.micro_step`."""
        if place == 0:
            self._undo.remember()
            self._losses.clear()
        self._losses.append(self._micro_step(place, images, targets))
        if place == self._last:
            self._undo.unless_finite(torch.stack(self._losses).mean())
        return self._losses[-1]


class Activity(Observer):
    """Notes for the hang watch what this process is doing."""

    @override
    def batch_wanted(self) -> None:
        activity.note("waiting for data")

    @override
    def batch_ready(self, step: int, batch: Batch) -> None:
        activity.note("computing")

    @override
    def update_done(self, step: int, loss: Tensor) -> None:
        activity.update_done(step)


class SkippedImages(Observer):
    """Lists the images that were left out because they are damaged, in `skipped.jsonl`."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / SKIPPED

    @override
    def batch_ready(self, step: int, batch: Batch) -> None:
        if batch.damaged:
            with self._path.open("a") as stream:
                for path, reason in batch.damaged.items():
                    row = {"step": step + 1, "path": path, "reason": reason}
                    stream.write(json.dumps(row) + "\n")
