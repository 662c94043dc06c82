"""`ixt train`: the loop. A step is an optimizer update; everything random is a function of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ixt.checkpoint.score import score_text
from ixt.distributed import batch_stats
from ixt.distributed.accelerator import seed_model
from ixt.distributed.run_lock import locked
from ixt.errors import CheckpointError, Interrupted
from ixt.evaluate.accuracy import class_results, metrics_row
from ixt.evaluate.inference import take_records
from ixt.evaluate.records import Records
from ixt.models import Base
from ixt.pipeline.loader import Batch
from ixt.recipe import Recipe
from ixt.training import state
from ixt.training.announce import announce_end, announce_start
from ixt.training.optimizer import set_learning_rate
from ixt.training.record_end import end_recorded
from ixt.training.run import Prepare, Run, RunReport, open_run
from ixt.training.same_data import ledger_format, refuse_other_data
from ixt.training.saving import finish_saves, newest_for_all, save
from ixt.training.watch import watched

Metrics = dict[str, Any]


def train(
    recipe: Recipe,
    run_dir: Path,
    resume: bool = False,
    prepare: Prepare | None = None,
    profile_steps: int = 0,
    base: Base | None = None,
    until: int | None = None,
    report: Callable[[Run], RunReport] | None = None,
) -> Metrics:
    """Train a recipe to its end, or continue where a run stopped.

    Args:
        recipe: with data.root set.
        run_dir: folder of the run: recipe, logs, checkpoints.
        resume: continue the run in `run_dir` at its newest good checkpoint.
        prepare: loads weights into the fresh model, and gives in words where they come from.
        profile_steps: steps to trace, after three of warm-up and those before engine.cuda_graph
            replays; 0 for none.
        base: the weights that `prepare` loads.
        until: step to end at, saved there as a run that is stopped; None for the recipe's last.
        report: makes what writes the run's report, e.g. `ixt.runs.report.writer.ReportWriter`;
            None for no report.

    Returns:
        The metrics of the last evaluation.

    Raises:
        IxtError: something the user can fix; see its message.
        Interrupted: a signal asked to stop; the work is saved.
    """
    with locked(run_dir), end_recorded(run_dir, recipe, until) as begins:
        run = open_run(recipe, run_dir, resume, prepare, base)
        with watched(run, micro_step, profile_steps, report):
            step, metrics = resume_or_start(run, resume)
            begins(run)
            finished = is_over(run, step, metrics)
            if step and run.schedule.ends_epoch(step) and not metrics:
                metrics = finish_epoch(run, step)  # it was stopped just before
            last = run.total_steps if until is None else min(until, run.total_steps)
            while step < last and run.ended_early is None:
                step = train_epoch(run, step, last)
                if run.schedule.ends_epoch(step):
                    metrics = finish_epoch(run, step)
            run.stop.over()  # before the processes meet: then one may end earlier than others
            finish_saves(run)
        if not finished:
            announce_end(run, step)
    return metrics


def train_epoch(run: Run, step: int, last: int) -> int:
    """Train from this step to the end of its epoch, or to `last` in it; return the step reached."""
    epoch, done = divmod(step, run.updates_per_epoch)
    batches = run.train_loader.epoch(epoch, first_update=done)
    run.wrapped.train()
    run.phases.begin_epoch(epoch)
    run.observers.epoch_begins()
    for _ in range(min(run.updates_per_epoch - done, last - step)):
        set_learning_rate(run.optimizer, run.learning_rate(step))
        loss = train_step(run, step, batches)
        step += 1
        run.observers.update_done(step, loss)
        saving, stopping = run.schedule.due(step) or step == last, run.stop.reached()
        if saving or stopping or run.schedule.rows_due(step):
            run.observers.rows_due(step)
        if saving or stopping:
            save(run, step)
        if stopping:
            finish_saves(run)
            raise Interrupted(f"stopped after step {step}, saved in {run.run_dir}", stopping)
    return step


def train_step(run: Run, step: int, batches: Iterator[Batch]) -> Tensor:
    """One optimizer update over this process's micro-batches; return their mean loss, 0-d."""
    losses = []
    for place in range(run.accelerator.gradient_accumulation_steps):
        run.observers.batch_wanted()
        batch = next(batches)
        run.observers.batch_ready(step, batch)
        targets = batch.targets if run.teacher is None else run.teacher.targets(step, batch)
        seed_model(run.recipe.run.seed, step, batch.micro_batch)
        losses.append(run.micro_step(place, batch.images, targets))
    return torch.stack(losses).mean()


def micro_step(
    run: Run,
    timer: AbstractContextManager[Any],
    before_step: Callable[[], object],
    place: int,
    images: Tensor,
    targets: Tensor,
) -> Tensor:
    """Add a micro-batch's gradients, and step after an update's last; return its loss, 0-d."""
    accelerator, max_norm = run.accelerator, run.recipe.optim.max_norm
    accelerator.step = place  # Accelerate counts no replays of a graph
    with accelerator.accumulate(run.wrapped):
        with timer:
            loss = run.loss(run.wrapped(images), targets)
        if accelerator.sync_gradients:
            before_step()
        accelerator.backward(loss)
        if accelerator.sync_gradients and max_norm is not None:
            accelerator.clip_grad_norm_(run.wrapped.parameters(), max_norm)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=not run.keeps_gradients)
    if accelerator.sync_gradients and run.ema is not None:
        average(run)
    return loss.detach()


def average(run: Run) -> None:
    """Move the averaged weights by an update."""
    assert run.ema is not None and run.recipe.ema.decay is not None
    run.ema.update(run.recipe.ema.decay)


def finish_epoch(run: Run, step: int) -> Metrics:
    """Evaluate at the end of an epoch, if the recipe wants it then, and save."""
    metrics = evaluate_epoch(run, step) if run.schedule.evaluates(step) else {}
    save(run, step, metrics)
    return metrics


def evaluate_epoch(run: Run, step: int) -> Metrics:
    """Evaluate the weights, and their average where there is one."""
    epoch = step // run.updates_per_epoch
    loader, device = run.eval_loader, run.accelerator.device
    with batch_stats.averaged(batch_stats.float_buffers(run.model)):
        records = take_records(run.wrapped, loader, device)
    metrics = metrics_row(records, loader.labels)
    if run.ema is not None:
        buffers = batch_stats.float_buffers(run.model)
        with run.ema.swapped(), batch_stats.averaged(buffers):
            records = take_records(run.wrapped, loader, device)
        metrics |= metrics_row(records, loader.labels, "ema_")
    row = {"step": step, "epoch": epoch - 1, **metrics}
    if run.recipe.run.log_per_class:
        row[f"{'ema_' if run.ema else ''}class_top1"] = class_top1(run, records)
    run.reporter.log_epoch(row)
    run.patience = run.patience.after(metrics)
    end_early(run, step)
    run.report.evaluated(step, records)
    return metrics


def class_top1(run: Run, records: Records) -> dict[str, float]:
    """Percent of images that are right, of each class that has some, by its name."""
    return {
        run.class_names[row["output"]]: round(row["top1"], 2)
        for row in class_results(records, run.eval_loader.labels)
    }


def end_early(run: Run, step: int) -> None:
    """Note after an evaluation whether it is the one at which patience ends the run."""
    if run.patience.is_over and step < run.total_steps:
        run.ended_early = run.patience.reason(step // run.updates_per_epoch - 1)


def is_over(run: Run, step: int, metrics: Metrics) -> bool:
    """Whether nothing is left to do at a step: its evaluation is done, and no other follows."""
    return bool(metrics) and (step == run.total_steps or run.ended_early is not None)


def resume_or_start(run: Run, resume: bool) -> tuple[int, Metrics]:
    """Restore the newest good checkpoint, if asked to; return its step and metrics.

    Raises:
        CheckpointError: there is none to resume, or it is of another model or other data.
    """
    checkpoint = newest_for_all(run) if resume else None
    if resume and checkpoint is None:
        raise CheckpointError(f"{run.run_dir}: no checkpoint to resume; leave out --resume")
    step, metrics = 0, {}
    records = None
    if checkpoint is not None:
        refuse_other_data(run, checkpoint)
        state.restore(run.accelerator, run.model, run.optimizer, run.ema, checkpoint)
        step, metrics = checkpoint.step, dict(checkpoint.state.get("metrics", {}))
        records, run.ledger_format = checkpoint.state.get("rows"), ledger_format(checkpoint.state)
        run.from_scratch = checkpoint.state.get("from_scratch")
        run.patience = run.patience.resumed(checkpoint.state)
    if metrics:
        end_early(run, step)
    finished = is_over(run, step, metrics)
    if not finished:
        if run.teacher is not None:
            epochs = run.recipe.schedule.total_epochs
            run.teacher.check_epochs(range(step // run.updates_per_epoch, epochs))
        announce_start(run)
    run.reporter.start(step, evaluated=bool(metrics), records=records)
    run.accelerator.wait_for_everyone()  # nobody adds rows while old ones are cut off
    if checkpoint is not None and finished:
        run.reporter.say(_finished(run, step, checkpoint.state))
    elif checkpoint is not None:
        run.reporter.say(f"resumed {checkpoint.path} at step {step}")
    return step, metrics


def _finished(run: Run, step: int, state: Mapping[str, Any]) -> str:
    """One line for a user who resumes a finished run: its state, and what to do next."""
    folder, epochs = shlex.quote(str(run.run_dir)), run.recipe.schedule.total_epochs
    data = shlex.quote(str(run.recipe.data.root))
    done = step // run.updates_per_epoch
    words = "" if state.get("score") is None else f" ({score_text(state)})"
    if run.ended_early is not None:
        words += (
            f"; it {run.ended_early}; to continue: ixt resume {folder} --set run.patience=N, "
            f"with N above {run.patience.waited} or null"
        )
    return (
        f"{run.run_dir}: this run is finished: {done} of {epochs} epochs are done at step "
        f"{step}{words}; next: ixt eval {folder} --data {data}, ixt export {folder} OUT --format "
        f"hub, or train further in a new run: ixt finetune RECIPE --from {folder} --run-dir OTHER"
    )
