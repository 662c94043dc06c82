"""In what the end of a window as it was recorded differs from what training it again gave.

And whether both were trained on one stack, where equal updates have equal bits.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ixt.checkpoint.folder import Checkpoint
from ixt.checkpoint.state_json import STATE
from ixt.monitor.row_file import LEDGER, read_row
from ixt.recipe import parse_stored
from ixt.runs.verify.replay.windows import Window
from ixt.training.same_data import ledger_format

_FILES = ("model", "ema", "optimizer", "ranks")
_SCALARS = ("optimizer", "scaler", "metrics", "class_names")
_FORMAT_1 = ("step", "epoch", "samples")


@dataclass(frozen=True)
class TensorDifference:
    """A tensor whose bits are not those that were recorded."""

    name: str
    """File and tensor, e.g. `model/head.fc.weight`."""
    absolute: float
    """Largest difference of two elements; infinite where they cannot be compared."""
    relative: float
    """The same, divided by the largest recorded element."""

    def __str__(self) -> str:
        if math.isinf(self.absolute):
            return f"{self.name} (of another shape or type, not finite, or missing in one)"
        return f"{self.name} by {self.absolute:.1e} ({self.relative:.1e} of its largest element)"


@dataclass(frozen=True)
class TensorComparison:
    """Of all tensors that a checkpoint holds."""

    count: int
    differing: list[TensorDifference]

    def __str__(self) -> str:
        if not self.differing:
            return f"all {self.count} tensors are the same bit for bit"
        return f"{len(self.differing)} of {self.count} tensors differ, first {self.differing[0]}"


def compare_tensors(recorded: Checkpoint, replayed: Checkpoint) -> TensorComparison:
    """Compare weights, averages, optimizer state, and the processes' own statistics, bit by bit."""
    count, differing = 0, []
    for file in _FILES:
        was, now = recorded.tensors(file), replayed.tensors(file)
        for name in {**was, **now}:
            count += 1
            found = _compare(was.get(name), now.get(name))
            if found is not None:
                differing.append(TensorDifference(f"{file}/{name}", *found))
    return TensorComparison(count, differing)


def _compare(was: Tensor | None, now: Tensor | None) -> tuple[float, float] | None:
    """The numbers of a `TensorDifference`; None where every bit is the same."""
    if was is None or now is None or was.shape != now.shape or was.dtype != now.dtype:
        return math.inf, math.inf
    if torch.equal(_bits(was), _bits(now)):
        return None
    absolute = float((now.double() - was.double()).abs().max())
    if not math.isfinite(absolute):
        return math.inf, math.inf
    return absolute, absolute / (float(was.double().abs().max()) or math.inf)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def scalars_problem(recorded: Checkpoint, replayed: Checkpoint) -> str | None:
    """What differs of the numbers in `state.json`, in words; None for nothing.

    An evaluation that the recorded state is from before is none.
    """
    for key in _SCALARS:
        was, now = recorded.state.get(key), replayed.state.get(key)
        if was != now and not (key == "metrics" and not was):
            return f"{key} in {STATE} is {_short(was)}, and now {_short(now)}"
    return None


def _short(value: Any) -> str:
    return textwrap.shorten(json.dumps(value), 200)


def ledger_problem(window: Window, run: Path, replayed: Checkpoint) -> str | None:
    """The first update whose row is not as it was recorded, in words; None for none.

    Raises:
        OSError: rows cannot be read.
    """
    was, now = _rows(run / LEDGER), _rows(replayed.path.parents[1] / LEDGER)
    keys = None if ledger_format(window.end.state) > 1 else _FORMAT_1
    for step in range(window.first + 1, window.end.step + 1):
        row, own = was.get(step), now[step]
        if row is None:
            return f"{LEDGER} has no row of step {step:,}"
        own = {key: own[key] for key in keys or own}
        differing = next((key for key in {**own, **row} if row.get(key) != own.get(key)), None)
        if differing is not None:
            found = f"{_short(row.get(differing))}, and now {_short(own.get(differing))}"
            return f"{LEDGER}: {differing} of step {step:,} was {found}"
    return None


def _rows(file: Path) -> dict[int, dict[str, Any]]:
    rows = filter(None, map(read_row, file.read_bytes().splitlines()))
    return {row["step"]: row for row in rows}


# Keys of `describe_machine`.
_FACTS = ("ixt", "git_commit", "cuda", "cudnn", "cpu", "processes")
_SHOWN = 3


def stack_differences(recorded: Checkpoint, replayed: Checkpoint) -> list[str]:
    """What differs between the stacks of two checkpoints, in words; nothing where they are one."""
    then, now = _stack(recorded.state), _stack(replayed.state)
    return [
        f"{name} was {_text(then.get(name))} and is {_text(now.get(name))}"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]


def few(differences: list[str]) -> str:
    """The first of them."""
    more = len(differences) - _SHOWN
    return "; ".join(differences[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _stack(state: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how sums are rounded: hardware, versions, processes and the engine."""
    machine = state.get("machine", {})
    devices = sorted({*machine.get("devices", [])})
    facts = {name: machine.get(name) for name in _FACTS}
    if not devices:
        facts["threads"] = machine.get("threads")
    packages = machine.get("packages", {})
    engine = parse_stored(state["recipe"]).engine.model_dump(exclude={"hang_timeout_s"})
    keys = {f"engine.{key}": value for key, value in engine.items()}
    return {**facts, "devices": devices, **packages, **keys}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)
