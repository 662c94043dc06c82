"""What happens between two log rows, and how the processes put it together."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ixt.monitor.observer import Observer
from ixt.monitor.reporter import memory_gib
from ixt.monitor.slow_rank import RankTimes, SlowRank, Stopwatch, slowest
from ixt.monitor.spikes import Spikes, spike_row
from ixt.pipeline.loader import Batch
from ixt.training.run import Run
from ixt.training.saving import diverged


class IntervalLog(Observer):
    """Collects what happens between two log rows; tensors stay on the device until they are due.

    Writes the row, the updates whose loss stands out, and the ledger; ends a run whose loss is
    not finite.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.forward = Stopwatch(run.accelerator.device)
        """Time of forward passes, where processes do not wait for each other."""
        self._spikes = Spikes(run.recipe.run.spike_sigma)
        self._slow_rank = SlowRank([peer.host for peer in run.peers])
        self._undone_running = 0
        """Consecutive updates that were undone, up to the last row."""
        self.epoch_begins()

    @override
    def epoch_begins(self) -> None:
        """Start an interval."""
        self.forward.restart()
        self._losses: list[Tensor] = []
        self._undone: list[Tensor] = []
        self._fingerprints: list[list[int]] = []
        self.waited_s = 0.0
        """Time spent waiting for data, in this interval."""
        self._skipped = self._overflows = 0
        self._start_s = time.perf_counter()

    @override
    def batch_wanted(self) -> None:
        self._wanted_s = time.perf_counter()

    @override
    def batch_ready(self, step: int, batch: Batch) -> None:
        self.waited_s += time.perf_counter() - self._wanted_s
        if len(self._fingerprints) == len(self._losses):
            self._fingerprints.append([0, 0])  # the first micro-batch of a new update
        self._fingerprints[-1][0] += batch.fingerprint
        self._fingerprints[-1][1] += batch.label_fingerprint
        self._skipped += len(batch.damaged)

    @override
    def update_done(self, step: int, loss: Tensor) -> None:
        accelerator, undo = self._run.accelerator, self._run.undo
        self._losses.append(loss)
        if undo is not None:
            self._undone.append(undo.undone)
        if accelerator.scaler is not None:
            self._overflows += accelerator.optimizer_step_was_skipped

    @override
    def rows_due(self, step: int) -> None:
        """Read the losses, check them, write a row and the ledger.

        Raises:
            Diverged: a loss is infinite or not a number, or too many consecutive updates were
                undone.
        """
        run, count = self._run, len(self._losses)
        losses = run.accelerator.reduce(torch.stack(self._losses), reduction="mean").tolist()
        first, epoch = step - count, (step - 1) // run.updates_per_epoch
        undone = [bool(n) for n in torch.stack(self._undone).tolist()] if self._undone else []
        self._note_spikes(first, losses, undone)
        self._refuse_nonfinite(first, losses, undone)
        good = [loss for loss in losses if math.isfinite(loss)]
        elapsed_s = time.perf_counter() - self._start_s
        row = {
            "step": step,
            "epoch": epoch,
            "loss": sum(good) / len(good) if good else math.nan,
            "lr": run.learning_rate(step - 1),
            "images_per_s": count * run.recipe.engine.global_batch_size / elapsed_s,
            "data_wait": self.waited_s / elapsed_s,
            "memory_gib": memory_gib(run.accelerator),
            "skipped": self._skipped,
            **self._compare_ranks(elapsed_s),
        }
        if undone:
            row["nonfinite"] = sum(undone)
        if run.accelerator.scaler is not None:
            row["overflows"] = self._overflows
        run.reporter.log_steps(row)
        self._log_ledger(first, epoch)
        self.epoch_begins()

    def _note_spikes(self, first: int, losses: list[float], undone: list[bool]) -> None:
        """List the updates whose loss stands out, and those that were undone."""
        run, found = self._run, self._spikes.find(losses)
        rows = []
        for place in sorted({*found, *(place for place, was in enumerate(undone) if was)}):
            step, loss = first + place, losses[place]
            lr = run.learning_rate(step)
            row = spike_row(run.recipe, run.run_dir, step, run.updates_per_epoch, loss, lr)
            if undone and undone[place]:
                row["taken_back"] = True
            elif math.isfinite(found[place]):
                row["sigma"] = round(found[place], 1)
            rows.append(row)
        run.reporter.log_spikes(rows)

    def _refuse_nonfinite(self, first: int, losses: list[float], undone: list[bool]) -> None:
        """Stop the run after an update that is not finite, or after too many undone ones."""
        for place, loss in enumerate(losses):
            if undone:
                self._undone_running = self._undone_running + 1 if undone[place] else 0
                bad = self._undone_running > self._run.recipe.run.max_skips
            else:
                bad = not math.isfinite(loss)
            if bad:
                n = self._undone_running
                also = f", {n} consecutive updates were rolled back" if n else ""
                raise diverged(self._run, f"the loss is {loss}", first + place, also)

    def _compare_ranks(self, elapsed_s: float) -> dict[str, Any]:
        """A few columns about the processes for the row, and a warning about a slow one."""
        accelerator = self._run.accelerator
        own = [self.waited_s, self.forward.read_s(), memory_gib(accelerator)]
        numbers = torch.tensor([own], dtype=torch.float64, device=accelerator.device)
        rows = accelerator.gather(numbers).tolist()
        times = [RankTimes(waited_s, forward_s) for waited_s, forward_s, _ in rows]
        warning = self._slow_rank.look(times, elapsed_s)
        if warning is not None:
            self._run.reporter.say(warning)
        rank = slowest(times)
        return {
            "slowest_rank": rank,
            "slowest_wait": times[rank].waited_s / elapsed_s,
            "memory_gib_per_rank": [round(gib, 3) for *_, gib in rows],
        }

    def _log_ledger(self, first: int, epoch: int) -> None:
        """Add the processes' fingerprints of each update, modulo 2**64, and write them down."""
        accelerator = self._run.accelerator
        wrapped = [[(n + 2**63) % 2**64 - 2**63 for n in pair] for pair in self._fingerprints]
        sums = torch.tensor(wrapped, dtype=torch.int64, device=accelerator.device)
        total: Tensor = accelerator.reduce(sums, reduction="sum")
        rows = []
        for step, (samples, labels) in enumerate(total.tolist(), first + 1):
            row = {"step": step, "epoch": epoch, "samples": f"{samples % 2**64:016x}"}
            if self._run.ledger_format > 1:
                row["labels"] = f"{labels % 2**64:016x}"
                row |= {"data": self._run.data["train"].short, "format": self._run.ledger_format}
            rows.append(row)
        self._run.reporter.log_ledger(rows)
