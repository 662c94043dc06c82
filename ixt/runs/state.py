"""How a run fares, from the small files of its folder; nothing is written, and no torch loaded.

Of `metrics.jsonl` only evaluations are parsed; weights and the ledger are not read.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ixt.checkpoint.folder import CHECKPOINTS, checkpoint_folders, step_of
from ixt.checkpoint.score import metric_name, score_key
from ixt.checkpoint.state_json import read_state
from ixt.distributed.run_lock import is_locked
from ixt.distributed.run_status import STATUS, RunStatus, read_status
from ixt.errors import IxtError
from ixt.files import reason
from ixt.monitor.row_file import LEDGER, METRICS, read_row
from ixt.recipe import RUN_RECIPE
from ixt.recipe.plain_yaml import read_plain
from ixt.runs.settings import Settings, flat, total_epochs

State = Literal["running", "stopped", "finished", "crashed", "unknown"]
STATES: tuple[State, ...] = ("running", "stopped", "finished", "crashed", "unknown")
RECENT_S = 600.0
"""Rows that changed within it are taken for a sign of life where the lock says nothing."""

_MARKS = (RUN_RECIPE, STATUS, CHECKPOINTS, METRICS)
_EVALUATION = b'{"kind": "epoch",'


@dataclass(frozen=True)
class Best:
    """The best evaluation of a run."""

    score: float
    """Percent, of what its checkpoints are judged by."""
    ema: bool
    """Whether it is that of averaged weights."""
    epoch: int
    """Its epoch, as the log numbers it, from 0."""
    metric: str = "top-1"
    """Or mAP, where images have several labels."""


@dataclass(frozen=True)
class RunState:
    """What can be said of a run."""

    name: str
    path: Path
    state: State
    perhaps: bool
    """Whether it only seems to run: its rows changed lately, its lock cannot be seen from here."""
    words: str | None
    """Signal or error that ended it, why it ended early, or what is known instead."""
    step: int
    """Updates done, by its rows and checkpoints."""
    epochs_done: int
    total_epochs: int | None
    best: Best | None
    changed_s: float
    """Last change of its files, in seconds since 1970."""
    settings: Settings

    def __str__(self) -> str:
        return f"perhaps {self.state}" if self.perhaps else self.state


@dataclass(frozen=True)
class _Progress:
    """What rows and names of checkpoints say."""

    step: int
    epochs_done: int
    best: Best | None
    changed_s: float


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return any((path / name).exists() for name in _MARKS) or is_locked(path) is True


def read_run(path: Path) -> RunState:
    """The state of a run; whatever is damaged in its folder is left out, and said in its words."""
    try:
        status, damage = read_status(path), None
    except (OSError, ValueError) as error:
        status, damage = None, reason(error)
    newest = {} if status is not None else _newest_state(path)
    settings = flat(status.recipe if status is not None else newest.get("recipe") or _yaml(path))
    updates = status.updates_per_epoch if status is not None else None
    progress = _progress(path, updates, int(newest.get("epoch", 0)))
    total = total_epochs(settings)
    state, perhaps, words = _state(path, status, newest, progress.changed_s, total)
    done = progress.epochs_done
    return RunState(
        name=path.name,
        path=path,
        state=state,
        perhaps=perhaps,
        words=damage or words,
        step=progress.step,
        epochs_done=total if state == "finished" and total is not None and not words else done,
        total_epochs=total,
        best=progress.best,
        changed_s=progress.changed_s,
        settings=settings,
    )


def _state(
    path: Path,
    status: RunStatus | None,
    newest: Mapping[str, Any],
    changed_s: float,
    total_epochs: int | None,
) -> tuple[State, bool, str | None]:
    """The state, whether it is a guess, and the last words."""
    locked = is_locked(path)
    if locked:
        return "running", False, None
    if status is None:
        over = newest.get("epoch_ended") and newest.get("metrics")
        if over and total_epochs is not None and newest.get("epoch", 0) >= total_epochs:
            return "finished", False, None
        return "unknown", False, f"no {STATUS} says how it ended: an earlier version of ixt ran it"
    if status.state == "failed":
        return "crashed", False, status.words
    if status.state != "running":
        return status.state, False, status.words
    elsewhere = status.host != socket.gethostname()
    if (elsewhere or locked is None) and time.time() - changed_s < RECENT_S:
        return "running", True, f"its rows change, on {status.host}"
    where = f"; it ran on {status.host}" if elsewhere else ""
    return "crashed", False, f"no last words: a process was killed, or its machine went down{where}"


def _progress(path: Path, updates_per_epoch: int | None, saved_epochs: int) -> _Progress:
    content = b""
    with suppress(OSError):
        content = (path / METRICS).read_bytes() if (path / METRICS).is_file() else b""
    best, last, epochs = None, _last_row(content), saved_epochs
    for row in _evaluations(content):
        epochs = max(epochs, row["epoch"] + 1)
        best = _better(best, row)
    step = max([0 if last is None else last["step"], *map(step_of, checkpoint_folders(path))])
    if updates_per_epoch:
        epochs = step // updates_per_epoch
    elif last is not None and type(last.get("epoch")) is int:
        epochs = max(epochs, last["epoch"])
    return _Progress(step, epochs, best, _changed_s(path))


def _evaluations(content: bytes) -> Iterator[dict[str, Any]]:
    for behind in (b"\n" + content).split(b"\n" + _EVALUATION)[1:]:
        row = read_row(_EVALUATION + behind.partition(b"\n")[0])
        if row is not None and type(row.get("epoch")) is int:
            yield row


def _better(best: Best | None, row: Mapping[str, Any]) -> Best | None:
    """The better one of what was best so far and an evaluation; of equal ones the later one."""
    key = score_key(row)
    score = row.get(key)
    if not isinstance(score, int | float) or not math.isfinite(score):
        return best
    if best is not None and best.score > score:
        return best
    return Best(score, key.startswith("ema_"), row["epoch"], metric_name(key))


def _last_row(content: bytes) -> dict[str, Any] | None:
    """The last whole row: a killed process may have left half of one behind it."""
    end = content.rfind(b"\n")
    return read_row(content[content.rfind(b"\n", 0, max(end, 0)) + 1 : max(end, 0)])


def _newest_state(path: Path) -> Mapping[str, Any]:
    """What the newest readable checkpoint says of itself; nothing without one."""
    for folder in reversed(checkpoint_folders(path)):
        with suppress(OSError, ValueError, IxtError):
            return read_state(folder)
    return {}


def _yaml(path: Path) -> Mapping[str, Any]:
    """The recipe for people, for a run that left nothing else; slow, and perhaps edited."""
    with suppress(OSError, ValueError, IxtError):
        if (path / RUN_RECIPE).is_file():
            content = read_plain((path / RUN_RECIPE).read_text(encoding="utf-8"), RUN_RECIPE)
            return content if isinstance(content, dict) else {}
    return {}


def _changed_s(path: Path) -> float:
    times = []
    for name in (METRICS, LEDGER, STATUS, CHECKPOINTS):
        with suppress(OSError):
            times.append((path / name).stat().st_mtime)
    with suppress(OSError):  # others may write into the folder, so it counts only without them
        return max(times, default=path.stat().st_mtime)
    return max(times, default=0.0)
