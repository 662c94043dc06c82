"""When and how the processes of a run save together, and which checkpoint they resume."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from ixt.checkpoint.folder import (
    Checkpoint,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
    sweep,
)
from ixt.checkpoint.score import score_of
from ixt.distributed.engine.shards import parts
from ixt.distributed.machine import describe_machine
from ixt.errors import Diverged
from ixt.monitor import activity
from ixt.training import state
from ixt.training.run import Run


def save(run: Run, step: int, metrics: Mapping[str, Any] | None = None) -> None:
    """Copy the state of this step and have it written. Every process must call it.

    Training continues meanwhile; a save waits for the one before it if that is unfinished.

    Raises:
        CheckpointError: the one before it could not be written.
        Diverged: a weight is infinite or not a number.
    """
    if run.undo is not None:
        run.undo.finish_previous()
    _refuse_spoiled(run, step)
    with activity.long("waiting for the previous checkpoint"):
        run.writer.wait()
    # No more patience than usual for what all processes exchange; who waits for the one that
    # writes finds that one patient.
    with activity.doing("saving a checkpoint"):
        tensors, scalars = state.capture(
            run.accelerator, run.model, run.optimizer, run.ema, run.writer.copies
        )
    with activity.long("writing a checkpoint"):  # in every process: all count the same activities
        if run.accelerator.is_main_process:
            _start_to_write(run, step, metrics or {}, tensors, scalars)


def _start_to_write(
    run: Run,
    step: int,
    metrics: Mapping[str, Any],
    tensors: dict[str, dict[str, Tensor]],
    scalars: Mapping[str, Any],
) -> None:
    content = {
        "step": step,
        "epoch": step // run.updates_per_epoch,
        "epoch_ended": step % run.updates_per_epoch == 0,
        "recipe": run.recipe.model_dump(mode="json"),
        "base": run.base,
        "class_names": list(run.class_names),
        "teacher": run.teacher and dict(run.teacher.facts),
        "data": {split: digest.row() for split, digest in run.data.items()},
        "rows": run.reporter.records(),
        "ledger_format": run.ledger_format,
        "from_scratch": run.from_scratch,
        "metrics": metrics,
        "score": score_of(metrics),
        "patience": run.patience.row(),
        **scalars,
    }
    run.writer.start(partial(_write, run, tensors, content))


def _refuse_spoiled(run: Run, step: int) -> None:
    """Refuse to save weights that are not finite: no run could be resumed from them.

    An infinite gradient spoils them one update before a loss tells.
    """
    held = [part for part in parts(run.model).values() if part.numel()]
    largest = torch._foreach_norm(held, float("inf"))
    finite = torch.stack([n.to(run.accelerator.device) for n in largest]).isfinite().all()
    # Under ZeRO-3 each process sees its own slices.
    if int(run.accelerator.reduce((~finite).int(), reduction="sum")):
        raise diverged(run, "weights are not finite", step - 1)


def diverged(run: Run, what: str, at: int, also: str = "") -> Diverged:
    """The error of a run whose numbers are no longer finite; waits until its saves are on the disk.

    `at` counts the updates before the one that showed `what` is wrong.
    """
    finish_saves(run)
    newest = newest_checkpoint(run.run_dir)
    return Diverged(
        f"{run.run_dir}: {what} in step {at} at learning rate "
        f"{run.learning_rate(at):.3e}{also}; last good checkpoint: "
        f"{newest.path.name if newest else 'none'}; lower optim.lr or set optim.max_norm"
    )


def finish_saves(run: Run) -> None:
    """Wait, in every process, until what was saved is on the disk.

    If a process left earlier, the launcher would end the one that is still writing.
    """
    with activity.long("writing a checkpoint"):
        run.writer.wait()
        run.report.finish()
    with activity.doing("waiting for the checkpoint"):
        run.accelerator.wait_for_everyone()


def newest_for_all(run: Run) -> Checkpoint | None:
    """The newest good checkpoint; one process verifies and chooses, so that all take the same."""
    found = newest_checkpoint(run.run_dir) if run.accelerator.is_main_process else None
    name = broadcast_object_list([found.path if found else None])[0]
    if name is None or run.accelerator.is_main_process:
        return found
    return read_checkpoint(name, verify=False)


def _write(run: Run, tensors: dict[str, dict[str, Tensor]], content: dict[str, Any]) -> None:
    """Write a checkpoint and delete those that it replaces; runs in the writer's thread."""
    settings = run.recipe.run
    run.writer.copies.wait()
    run.reporter.keep_rows()
    save_checkpoint(run.run_dir, tensors, {**content, "machine": describe_machine()})
    sweep(
        run.run_dir,
        content["step"],
        settings.keep_last,
        settings.keep_best,
        settings.keep_every_epochs,
    )
    run.reporter.saved(content["step"])
    run.report.saved()
