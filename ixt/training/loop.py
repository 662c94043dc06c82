"""`ixt train`: the loop. A step is an optimizer update; everything random is a function of it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ixt.distributed import batch_stats, engine
from ixt.distributed.accelerator import seed_model
from ixt.distributed.run_lock import locked
from ixt.distributed.signals import StopRequest
from ixt.distributed.stop_agreement import StopAgreement
from ixt.errors import CheckpointError, Interrupted
from ixt.evaluate import evaluate
from ixt.monitor import activity
from ixt.monitor.hang import HangWatch
from ixt.monitor.profiler import StepProfiler
from ixt.monitor.reporter import SKIPPED
from ixt.monitor.slow_rank import Stopwatch
from ixt.pipeline.loader import Batch
from ixt.recipe import Recipe
from ixt.training import state
from ixt.training.interval import Interval, log_interval
from ixt.training.micro_batch import out_of_memory_explained
from ixt.training.model import Prepare, probe_model
from ixt.training.optimizer import set_learning_rate
from ixt.training.run import Run, open_run
from ixt.training.saving import due_by_clock, finish_saves, newest_for_all, save

Metrics = dict[str, Any]


def train(
    recipe: Recipe,
    run_dir: Path,
    resume: bool = False,
    prepare: Prepare | None = None,
    profile_steps: int = 0,
) -> Metrics:
    """Train a recipe to its end, or go on where a run stopped.

    Args:
        recipe: with data.root set.
        run_dir: folder of the run: recipe, logs, checkpoints.
        resume: continue the run in `run_dir` at its newest good checkpoint.
        prepare: called with the fresh model, to load weights for instance.
        profile_steps: steps to trace, after three of warm-up and those before engine.cuda_graph
            replays; 0 for none.

    Returns:
        The metrics of the last evaluation.

    Raises:
        IxtError: something the user can mend; see its message.
        Interrupted: a signal asked to stop; the work is saved.
    """
    with locked(run_dir):
        run = open_run(recipe, run_dir, resume, prepare)
        record_updates(run)
        # A profile is to show replays.
        skip = run.graph.warm_up + 1 if run.graph is not None else 0
        with engine.closing(run.accelerator):
            try:
                with (
                    out_of_memory_explained(run.recipe, lambda: probe_model(run.recipe)),
                    HangWatch(run_dir, recipe.engine.hang_timeout_s),
                    StopRequest() as request,
                    StopAgreement(request) as stop,
                    run.writer,
                    StepProfiler(run_dir, profile_steps, run.reporter.say, skip) as profiler,
                ):
                    metrics = _run(run, resume, stop, profiler)
            finally:
                run.reporter.close()
    return metrics


def _run(run: Run, resume: bool, stop: StopAgreement, profiler: StepProfiler) -> Metrics:
    """Train from where the run stands to its end."""
    step, metrics = resume_or_start(run, resume)
    if step and step % run.updates_per_epoch == 0 and not metrics:
        metrics = finish_epoch(run, step)  # it was stopped just before
    while step < run.total_steps:
        step = train_epoch(run, step, stop, profiler)
        metrics = finish_epoch(run, step)
    finish_saves(run)
    return metrics


def train_epoch(run: Run, step: int, stop: StopAgreement, profiler: StepProfiler) -> int:
    """Train from this step to the end of its epoch; return the step reached."""
    epoch, done = divmod(step, run.updates_per_epoch)
    batches = run.train_loader.epoch(epoch, first_update=done)
    settings, device = run.recipe.run, run.accelerator.device
    interval = Interval(Stopwatch(device))
    run.wrapped.train()
    for _ in range(done, run.updates_per_epoch):
        set_learning_rate(run.optimizer, run.learning_rate(step))
        train_step(run, step, batches, interval)
        step += 1
        run.reporter.advance()
        run.writer.check()
        activity.update_done(step)
        profiler.step()
        at_end = step % run.updates_per_epoch == 0
        due = step % (settings.checkpoint_every_steps or math.inf) == 0 and not at_end
        logs = step % settings.log_every_steps == 0 or at_end or due
        # An evaluation that does not fit, or outlasts a queue's patience, must not cost an epoch.
        due = due or (evaluation_due(run, step) if at_end else logs and due_by_clock(run))
        stopping = stop.reached()
        if logs or stopping:
            log_interval(run, step, epoch, interval)
            interval = Interval(Stopwatch(device))
        if due or stopping:
            save(run, step)
        if stopping:
            finish_saves(run)
            raise Interrupted(f"stopped after step {step}, saved in {run.run_dir}", stopping)
    return step


def train_step(run: Run, step: int, batches: Iterator[Batch], interval: Interval) -> None:
    """One optimizer update over this process's micro-batches."""
    losses = []
    if run.undo is not None:
        run.undo.remember()
    for place in range(run.accelerator.gradient_accumulation_steps):
        batch = _next(batches, interval)
        _note_damaged(run, step, batch, interval)
        seed_model(run.recipe.run.seed, step, batch.micro_batch)
        if run.graph is not None:
            losses.append(run.graph(place, batch.images, batch.targets))
        else:
            losses.append(micro_step(run, place, batch.images, batch.targets, interval.forward))
        interval.fingerprints[-1] += batch.fingerprint
    if run.graph is None:
        average(run)
    scaler = run.accelerator.scaler
    interval.losses.append(torch.stack(losses).mean())
    interval.overflows += scaler is not None and run.accelerator.optimizer_step_was_skipped
    if run.undo is not None:
        interval.undone.append(run.undo.unless_finite(interval.losses[-1]))


def micro_step(
    run: Run, place: int, images: Tensor, targets: Tensor, forward: AbstractContextManager[Any]
) -> Tensor:
    """Add a micro-batch's gradients, and step after an update's last; return its loss, 0-d."""
    accelerator, max_norm = run.accelerator, run.recipe.optim.max_norm
    keep_gradients = run.graph is not None and run.graph.accumulates
    accelerator.step = place  # Accelerate counts no replays
    with accelerator.accumulate(run.wrapped):
        with forward:
            loss = run.loss(run.wrapped(images), targets)
        if run.undo is not None and accelerator.sync_gradients:
            run.undo.settle()
        accelerator.backward(loss)
        if accelerator.sync_gradients and max_norm is not None:
            accelerator.clip_grad_norm_(run.wrapped.parameters(), max_norm)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=not keep_gradients)
    return loss.detach()


def average(run: Run) -> None:
    """Move the averaged weights, if there are any, by an update."""
    if run.ema is not None:
        assert run.recipe.ema.decay is not None
        run.ema.update(run.recipe.ema.decay)


def whole_update(run: Run, place: int, images: Tensor, targets: Tensor) -> Tensor:
    """What an update does on the device with one of its micro-batches: what a graph records."""
    loss = micro_step(run, place, images, targets, nullcontext())
    if run.accelerator.sync_gradients:
        average(run)
    return loss


def record_updates(run: Run) -> None:
    """Have updates recorded as CUDA graphs, once they have warmed up, where the recipe wants it."""
    if run.graph_stream is not None:
        count = run.accelerator.gradient_accumulation_steps
        update = partial(whole_update, run)
        run.graph = engine.StepGraph(update, run.optimizer, run.graph_stream, count)


def evaluation_due(run: Run, step: int) -> bool:
    """Whether the recipe wants an evaluation after the epoch that this step ends."""
    epoch = step // run.updates_per_epoch
    return epoch % run.recipe.eval.every_epochs == 0 or step >= run.total_steps


def evaluate_epoch(run: Run, step: int) -> Metrics:
    """Evaluate after an epoch, if the recipe wants it then; raw and averaged weights."""
    if not evaluation_due(run, step):
        return {}
    epoch = step // run.updates_per_epoch
    device = run.accelerator.device
    with batch_stats.averaged(batch_stats.float_buffers(run.model)):
        metrics = evaluate(run.wrapped, run.eval_loader, device).row()
    if run.ema is not None:
        buffers = batch_stats.float_buffers(run.model)
        with run.ema.swapped(), batch_stats.averaged(buffers):
            metrics |= evaluate(run.wrapped, run.eval_loader, device).row("ema_")
    run.reporter.log_epoch({"step": step, "epoch": epoch - 1, **metrics})
    return metrics


def finish_epoch(run: Run, step: int) -> Metrics:
    """Evaluate at the end of an epoch, if the recipe wants it then, and save."""
    metrics = evaluate_epoch(run, step)
    save(run, step, metrics)
    return metrics


def resume_or_start(run: Run, resume: bool) -> tuple[int, Metrics]:
    """Restore the newest good checkpoint, if asked to; return its step and metrics.

    Raises:
        CheckpointError: there is none to resume, or it is of another model.
    """
    checkpoint = newest_for_all(run) if resume else None
    if resume and checkpoint is None:
        raise CheckpointError(f"{run.run_dir}: no checkpoint to resume; leave out --resume")
    step, metrics = 0, {}
    if checkpoint is not None:
        state.restore(run.accelerator, run.model, run.optimizer, run.ema, checkpoint)
        step, metrics = checkpoint.step, dict(checkpoint.state["metrics"])
    run.reporter.start(step, evaluated=bool(metrics))
    run.accelerator.wait_for_everyone()  # nobody adds rows while old ones are cut off
    if checkpoint is not None:
        run.reporter.say(f"resumed {checkpoint.path} at step {step}")
    return step, metrics


def _next(batches: Iterator[Batch], interval: Interval) -> Batch:
    activity.note("waiting for data")
    start_s = time.perf_counter()
    batch = next(islice(batches, 1))
    interval.waited_s += time.perf_counter() - start_s
    activity.note("computing")
    if len(interval.fingerprints) == len(interval.losses):
        interval.fingerprints.append(0)  # the first micro-batch of a new update
    return batch


def _note_damaged(run: Run, step: int, batch: Batch, interval: Interval) -> None:
    """Count and list the images that were left out."""
    if not batch.damaged:
        return
    interval.skipped += len(batch.damaged)
    with (run.run_dir / SKIPPED).open("a") as stream:
        for path, reason in batch.damaged.items():
            stream.write(json.dumps({"step": step + 1, "path": path, "reason": reason}) + "\n")
