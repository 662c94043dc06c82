"""What happens between two log rows, and how the processes put it together."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ixt.monitor.reporter import memory_gib
from ixt.monitor.slow_rank import RankTimes, Stopwatch, slowest
from ixt.monitor.spikes import spike_row
from ixt.training.run import Run
from ixt.training.saving import diverged


@dataclass
class Interval:
    """What happened since the last log row. Tensors stay on the device until it is read."""

    forward: Stopwatch
    losses: list[Tensor] = field(default_factory=list)
    undone: list[Tensor] = field(default_factory=list)
    """Per update 1 where it was taken back; empty where that is never done."""
    fingerprints: list[int] = field(default_factory=list)
    waited_s: float = 0.0
    skipped: int = 0
    """Images left out."""
    overflows: int = 0
    """Updates that fp16's gradient scaler left out."""
    start_s: float = field(default_factory=time.perf_counter)


def log_interval(run: Run, step: int, epoch: int, interval: Interval) -> None:
    """Read the losses of an interval, check them, write a row and the ledger.

    Raises:
        Diverged: a loss is infinite or not a number, or too many updates running were taken back.
    """
    losses = run.accelerator.reduce(torch.stack(interval.losses), reduction="mean").tolist()
    first = step - len(losses)
    undone = [bool(n) for n in torch.stack(interval.undone).tolist()] if interval.undone else []
    _note_spikes(run, first, losses, undone)
    _refuse_nonfinite(run, first, losses, undone)
    good = [loss for loss in losses if math.isfinite(loss)]
    elapsed_s = time.perf_counter() - interval.start_s
    row = {
        "step": step,
        "epoch": epoch,
        "loss": sum(good) / len(good) if good else math.nan,
        "lr": run.learning_rate(step - 1),
        "images_per_s": len(losses) * run.recipe.engine.global_batch_size / elapsed_s,
        "data_wait": interval.waited_s / elapsed_s,
        "memory_gib": memory_gib(run.accelerator),
        "skipped": interval.skipped,
        **_of_all_ranks(run, interval, elapsed_s),
    }
    if undone:
        row["nonfinite"] = sum(undone)
    if run.accelerator.scaler is not None:
        row["overflows"] = interval.overflows
    run.reporter.log_steps(row)
    _log_ledger(run, first, epoch, interval.fingerprints)


def _note_spikes(run: Run, first: int, losses: list[float], undone: list[bool]) -> None:
    """List the updates whose loss stands out, and those that were taken back."""
    found = run.spikes.find(losses)
    places = sorted({*found, *(place for place, was in enumerate(undone) if was)})
    rows = []
    for place in places:
        step, loss = first + place, losses[place]
        lr = run.learning_rate(step)
        row = spike_row(run.recipe, run.run_dir, step, run.updates_per_epoch, loss, lr)
        if undone and undone[place]:
            row["taken_back"] = True
        elif math.isfinite(found[place]):
            row["sigma"] = round(found[place], 1)
        rows.append(row)
    run.reporter.log_spikes(rows)


def _refuse_nonfinite(run: Run, first: int, losses: list[float], undone: list[bool]) -> None:
    """Stop where an update spoiled the weights, or where too many running would have."""
    for place, loss in enumerate(losses):
        if undone:
            run.undone_running = run.undone_running + 1 if undone[place] else 0
            bad = run.undone_running > run.recipe.run.max_skips
        else:
            bad = not math.isfinite(loss)
        if bad:
            n = run.undone_running
            also = f", {n} updates running were taken back" if n else ""
            raise diverged(run, f"the loss is {loss}", first + place, also)


def _of_all_ranks(run: Run, interval: Interval, elapsed_s: float) -> dict[str, Any]:
    """Compare the processes; a few columns for the row, and a warning about a slow one."""
    own = [interval.waited_s, interval.forward.read_s(), memory_gib(run.accelerator)]
    numbers = torch.tensor([own], dtype=torch.float64, device=run.accelerator.device)
    rows = run.accelerator.gather(numbers).tolist()
    times = [RankTimes(waited_s, forward_s) for waited_s, forward_s, _ in rows]
    warning = run.slow_rank.look(times, elapsed_s)
    if warning is not None:
        run.reporter.say(warning)
    rank = slowest(times)
    return {
        "slowest_rank": rank,
        "slowest_wait": times[rank].waited_s / elapsed_s,
        "memory_gib_per_rank": [round(gib, 3) for *_, gib in rows],
    }


def _log_ledger(run: Run, first: int, epoch: int, fingerprints: list[int]) -> None:
    """Add the processes' fingerprints of each update, modulo 2**64, and write them down."""
    wrapped = [(value + 2**63) % 2**64 - 2**63 for value in fingerprints]
    sums = torch.tensor(wrapped, dtype=torch.int64, device=run.accelerator.device)
    total: Tensor = run.accelerator.reduce(sums, reduction="sum")
    run.reporter.log_ledger(
        [
            {"step": first + n + 1, "epoch": epoch, "samples": f"{value % 2**64:016x}"}
            for n, value in enumerate(total.tolist())
        ]
    )
