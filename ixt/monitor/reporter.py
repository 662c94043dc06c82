"""What the user sees of a run: progress, JSONL rows, trackers. Only the first process reports."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from ixt.errors import printable
from ixt.files import fsync
from ixt.monitor.prometheus import Exporter
from ixt.monitor.row_file import LEDGER, METRICS, Record, RowFile
from ixt.monitor.run_progress import RunProgress
from ixt.monitor.spikes import SPIKES
from ixt.monitor.status_line import terminal
from ixt.recipe import Prometheus

SKIPPED = "skipped.jsonl"


class Reporter:
    """Writes rows to `metrics.jsonl`, the ledger and the trackers, and shows the progress."""

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
        self._terminal = terminal() if accelerator.is_main_process else None
        self._console = self._terminal or (
            Console(stderr=True) if accelerator.is_main_process else None
        )
        self._progress: RunProgress | None = None
        self._exporter: Exporter | None = None
        names = (METRICS, LEDGER, SKIPPED, SPIKES)
        self._files = {name: RowFile(run_dir / name) for name in names}
        if prometheus is not None and accelerator.is_main_process:
            self._exporter = Exporter(prometheus, run_dir.name)

    def start(
        self, step: int, evaluated: bool = True, records: Mapping[str, Record] | None = None
    ) -> None:
        """Begin (or resume) at this step: forget rows behind it, open trackers and progress.

        Without `evaluated`, an evaluation of this step is forgotten too: it will be done again.
        `records` are what the checkpoint of this step says of the rows.
        """
        # TensorBoard then hides what a killed run had drawn beyond this step.
        again = {"tensorboard": {"purge_step": step + 1}} if step else {}
        self._accelerator.init_trackers("ixt", init_kwargs=again)
        if self._console is None:
            return
        for name, file in self._files.items():
            damage = file.open(step, evaluated, (records or {}).get(name))
            if damage is not None:
                self.say(damage)
        self._progress = RunProgress(step, self._total, self.say, self._terminal)

    def close(self) -> None:
        """Leave the terminal as it was, and the port."""
        if self._progress is not None:
            self._progress.close()
        if self._exporter is not None:
            self._exporter.close()

    def say(self, text: str) -> None:
        """Print a line for people; names in it are text, not markup."""
        if self._console is not None:
            self._console.print(
                printable(text), highlight=False, markup=False, emoji=False, soft_wrap=True
            )

    def advance(self) -> None:
        """One more update is done."""
        if self._progress is not None:
            self._progress.advance()

    def log_steps(self, row: Mapping[str, Any]) -> None:
        """Record a log interval.

        Args:
            row: step, epoch, loss, lr, images_per_s, data_wait (share of the time), memory_gib,
                and whatever else the interval tells.
        """
        self._record({"kind": "steps", **row}, prefix="train")
        if self._progress is not None:
            self._progress.show(row)

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """Record an evaluation: step, epoch, and metrics of the raw and the EMA weights."""
        self._record({"kind": "epoch", **row}, prefix="eval")
        for prefix, name in (("", ""), ("ema_", "EMA  ")):
            if f"{prefix}top1" in row:
                key = f"{prefix}map"
                top1, top5, loss = (row[prefix + key] for key in ("top1", "top5", "loss"))
                self.say(
                    f"epoch {row['epoch']}  {name}top-1 {top1:.2f}  top-5 {top5:.2f}  "
                    f"loss {loss:.4f}" + (f"  mAP {row[key]:.2f}" if key in row else "")
                )

    def log_ledger(self, rows: list[dict[str, Any]]) -> None:
        """Record the fingerprints of the samples of each update."""
        if self._console is not None:
            self._files[LEDGER].append(rows)

    def log_spikes(self, rows: list[dict[str, Any]]) -> None:
        """Record updates whose loss stands out, and print how to look at them."""
        if self._console is None or not rows:
            return
        self._files[SPIKES].append(rows)
        row = rows[-1]
        what = "was rolled back" if row.get("taken_back") else "stands out"
        self.say(f"step {row['step']} with loss {row['loss']} {what}; look at it: {row['show']}")

    def saved(self, step: int) -> None:
        """Note that a checkpoint of this step is on the disk."""
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


def memory_gib(accelerator: Accelerator) -> float:
    """Peak memory of this process in GiB: the device's where it has one, else the resident set."""
    if accelerator.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated() / 2**30)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
