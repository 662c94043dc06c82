"""A trace of a few training steps, taken on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from ixt.distributed.group import rank

FOLDER = "profile"

_WARMUP_STEPS = 3  # the profiler's own start-up would else be in the trace
_ROWS = 25


class StepProfiler:
    """Traces some steps, from the fourth one or a later one on, within a `with` block.

    Each process writes `profile/rank-N.json` (Chrome's trace format; Perfetto and TensorBoard read
    it) and `profile/rank-N.txt`, a table of operators by their own time.
    """

    def __init__(
        self, run_dir: Path, num_steps: int, say: Callable[[str], None], skip: int = 0
    ) -> None:
        """Trace nothing yet.

        No step is traced if `num_steps` is 0; the first `skip` steps are unlike the later ones.
        """
        self._folder, self._num_steps, self._say = run_dir / FOLDER, num_steps, say
        self._skip = skip
        self._left = skip + _WARMUP_STEPS + num_steps
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._profile: profile | None = None

    def __enter__(self) -> Self:
        if self._num_steps:
            activities = [ProfilerActivity.CPU]
            if self._device == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(
                activities=activities,
                schedule=schedule(
                    wait=self._skip, warmup=_WARMUP_STEPS, active=self._num_steps, repeat=1
                ),
                on_trace_ready=self._write,
                acc_events=True,
            )
            self._profile.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._profile is None:
            return
        if self._left > self._num_steps:
            steps = self._skip + _WARMUP_STEPS
            self._say(f"no profile: the run ended within its {steps} steps of warm-up")
        self._stop()

    def step(self) -> None:
        """One more step is done."""
        if self._profile is None:
            return
        self._profile.step()
        self._left -= 1
        if self._left == 0:
            self._stop()

    def _stop(self) -> None:
        if self._profile is not None:
            self._profile.stop()
        self._profile = None

    def _write(self, done: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        trace = self._folder / f"rank-{rank()}.json"
        done.export_chrome_trace(str(trace))
        averages = done.key_averages()
        key = f"self_{self._device}_time_total"
        table = averages.table(sort_by=key, row_limit=_ROWS, max_name_column_width=60)
        trace.with_suffix(".txt").write_text(table + "\n")
        operators = [e for e in averages if not e.key.startswith("ProfilerStep")]
        top = sorted(operators, key=lambda event: -_own_us(event, self._device))[:5]
        whole = sum(_own_us(event, self._device) for event in operators) or 1.0
        names = ", ".join(f"{e.key} {_own_us(e, self._device) / whole:.0%}" for e in top)
        self._say(f"profile of {self._num_steps} steps in {trace.with_suffix('')}.json and .txt")
        self._say(f"most self time on the {self._device}: {names}")


def _own_us(event: Any, device: str) -> float:
    return float(event.self_device_time_total if device == "cuda" else event.self_cpu_time_total)
