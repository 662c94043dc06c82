"""What the user sees of a run: progress, JSONL rows, trackers. Only the first process reports."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ixt.errors import escaped
from ixt.files import fsync
from ixt.monitor.prometheus import Exporter
from ixt.monitor.row_file import LEDGER, METRICS, Record, RowFile
from ixt.monitor.spikes import SPIKES
from ixt.recipe import Prometheus

SKIPPED = "skipped.jsonl"


class Reporter:
    """Writes rows to `metrics.jsonl`, the ledger and the trackers, and draws the progress.

    On a terminal it draws one moving line; elsewhere it prints a line per log interval, so that a
    log file stays readable.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        run_dir: Path,
        total_steps: int,
        prometheus: Prometheus | None = None,
    ) -> None:
        self._accelerator = accelerator
        self._run_dir = run_dir
        self._total = total_steps
        self._console = Console(stderr=True) if accelerator.is_main_process else None
        self._progress: Progress | None = None
        self._first: tuple[int, float] | None = None
        self._exporter: Exporter | None = None
        names = (METRICS, LEDGER, SKIPPED, SPIKES)
        self._files = {name: RowFile(run_dir / name) for name in names}
        if prometheus is not None and accelerator.is_main_process:
            self._exporter = Exporter(prometheus, run_dir.name)

    def start(
        self, step: int, evaluated: bool = True, records: Mapping[str, Record] | None = None
    ) -> None:
        """Begin (or resume) at this step: forget rows behind it, open trackers and progress.

        Args:
            step: updates done.
            evaluated: False to forget an evaluation of this step too: it will be done again.
            records: what the checkpoint of this step says of the rows, as `records` gave it.
        """
        self._first = (step, time.monotonic())
        # TensorBoard then hides what a killed run had drawn beyond this step.
        again = {"tensorboard": {"purge_step": step + 1}} if step else {}
        self._accelerator.init_trackers("ixt", init_kwargs=again)
        if self._console is None:
            return
        for name, file in self._files.items():
            damage = file.open(step, evaluated, (records or {}).get(name))
            if damage is not None:
                self.say(damage)
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._progress.add_task("starting", total=self._total, completed=step)
            self._progress.start()

    def close(self) -> None:
        """Leave the terminal as it was, and the port."""
        if self._progress is not None:
            self._progress.stop()
        if self._exporter is not None:
            self._exporter.close()

    def say(self, text: str) -> None:
        """Print a line for people; names in it are text, not markup."""
        if self._console is not None:
            self._console.print(escaped(text), highlight=False, soft_wrap=True)

    def advance(self) -> None:
        """One more update is done."""
        if self._progress is not None:
            self._progress.advance(self._progress.task_ids[0])

    def log_steps(self, row: Mapping[str, Any]) -> None:
        """Record a log interval.

        Args:
            row: step, epoch, loss, lr, images_per_s, data_wait (share of the time), memory_gib,
                and whatever else the interval tells.
        """
        self._record({"kind": "steps", **row}, prefix="train")
        if self._console is None:
            return
        text = (
            f"epoch {row['epoch']}  step {row['step']}/{self._total}  loss {row['loss']:.4f}  "
            f"lr {row['lr']:.2e}  {row['images_per_s']:.0f} img/s  wait {row['data_wait']:.0%}  "
            f"{row['memory_gib']:.1f} GiB  eta {self._eta(row['step'])}"
        )
        if self._progress is None:
            self.say(text)
        else:
            self._progress.update(self._progress.task_ids[0], description=text)

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """Record an evaluation: step, epoch, and metrics of the raw and the EMA weights."""
        self._record({"kind": "epoch", **row}, prefix="eval")
        words = [f"epoch {row['epoch']}"]
        for prefix, name in (("", ""), ("ema_", "EMA ")):
            if f"{prefix}top1" in row:
                words.append(
                    f"{name}top-1 {row[f'{prefix}top1']:.2f}  {name}top-5 "
                    f"{row[f'{prefix}top5']:.2f}  {name}loss {row[f'{prefix}loss']:.4f}"
                )
        self.say("  ".join(words))

    def log_ledger(self, rows: list[dict[str, Any]]) -> None:
        """Record the fingerprints of the samples of each update."""
        if self._console is not None:
            self._files[LEDGER].append(rows)

    def log_spikes(self, rows: list[dict[str, Any]]) -> None:
        """Record updates whose loss stands out, and tell people how to look at them."""
        if self._console is None or not rows:
            return
        self._files[SPIKES].append(rows)
        row = rows[-1]
        what = "was rolled back" if row.get("taken_back") else "stands out"
        self.say(f"step {row['step']} with loss {row['loss']} {what}; see it: {row['show']}")

    def saved(self, step: int) -> None:
        """A checkpoint of this step is on the disk."""
        if self._exporter is not None:
            self._exporter.record({"last_checkpoint_step": step})

    def keep_rows(self) -> None:
        """Wait until the rows written so far are on the disk."""
        for name in (METRICS, LEDGER, SPIKES):
            if (self._run_dir / name).exists():
                fsync(self._run_dir / name)

    def records(self) -> dict[str, Record]:
        """What a checkpoint of now keeps of the rows written so far, by file."""
        return {name: self._files[name].record() for name in (METRICS, LEDGER)}

    def _record(self, row: dict[str, Any], prefix: str) -> None:
        numbers = {
            f"{prefix}/{key}": value
            for key, value in row.items()
            if isinstance(value, (int, float)) and key != "step"
        }
        self._accelerator.log(numbers, step=row["step"])
        if self._exporter is not None:
            self._exporter.record(row)
        if self._console is not None:
            self._files[METRICS].append([row])

    def _eta(self, step: int) -> str:
        assert self._first is not None
        first, since_s = self._first
        left_s = (time.monotonic() - since_s) / max(1, step - first) * (self._total - step)
        hours, minutes = divmod(round(left_s / 60), 60)
        return f"{hours}:{minutes:02d} h" if hours else f"{left_s / 60:.1f} min"


def memory_gib(accelerator: Accelerator) -> float:
    """Peak memory of this process in GiB: the device's where it has one, else the resident set."""
    if accelerator.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated() / 2**30)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
