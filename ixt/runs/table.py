"""The runs of a folder: found, chosen, sorted, and as rows for people and for programs."""

from __future__ import annotations

import difflib
import fnmatch
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ixt.errors import CheckpointError, IxtError
from ixt.files import reason
from ixt.recipe.plain_yaml import read_plain
from ixt.runs.settings import differing, short, standing_out
from ixt.runs.state import STATES, Best, RunState, is_run, read_run

COLUMNS = ("name", "state", "epochs", "best", "at epoch", "changed", "settings")
"""Of the table for people."""

SORT_KEYS: dict[str, Callable[[RunState], Any]] = {
    "changed": lambda run: -run.changed_s,
    "name": lambda run: run.name,
    "state": lambda run: STATES.index(run.state),
    "epoch": lambda run: -run.epochs_done,
    "top1": lambda run: math.inf if run.best is None else -run.best.score,
}
"""What runs are sorted by beside settings: the newest, the furthest, the best first."""

_MOST_WORDS = 100  # characters in the table


def find_runs(folder: Path) -> list[RunState]:
    """The runs in a folder; the folder itself where it is that of a run.

    Raises:
        CheckpointError: it is not readable, or holds none.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise CheckpointError(
            f"{folder}: is not readable ({reason(error)}); give the folder that holds your runs"
        ) from error
    if is_run(folder):
        return [read_run(folder)]
    runs = [read_run(folder / name) for name in names if is_run(folder / name)]
    if not runs:
        raise CheckpointError(
            f"{folder}: holds no runs; give the folder that holds your runs, or begin one with "
            "ixt train RECIPE --data DIR"
        )
    return runs


def chosen(runs: Iterable[RunState], filters: Iterable[str]) -> list[RunState]:
    """The runs that fit all of the filters.

    A filter is `state=crashed`, `name=PATTERN` or `section.key=value`.

    Raises:
        IxtError: one is not of that form, or no run has such a setting.
    """
    runs = list(runs)
    for text in filters:
        fits = _filter(text, runs)
        runs = [run for run in runs if fits(run)]
    return runs


def in_order(runs: Iterable[RunState], key: str) -> list[RunState]:
    """The runs sorted by one of `SORT_KEYS` or by a setting; those without it come last.

    Raises:
        IxtError: there is no such key.
    """
    runs = sorted(runs, key=lambda run: run.name)
    if key in SORT_KEYS:
        return sorted(runs, key=SORT_KEYS[key])
    _refuse_unknown("--sort", key, runs, SORT_KEYS)
    return sorted(runs, key=lambda run: _rank(run.settings.get(key)))


def rows(runs: Sequence[RunState]) -> list[tuple[str, ...]]:
    """A text for each of `COLUMNS` and each run; names are as they are, not escaped."""
    now_s, changed = time.time(), standing_out([run.settings for run in runs])
    return [
        (
            run.name,
            _state_text(run),
            _epochs(run),
            "" if run.best is None else _best_text(run.best),
            "" if run.best is None else str(run.best.epoch),
            _ago(now_s - run.changed_s),
            short(settings),
        )
        for run, settings in zip(runs, changed, strict=True)
    ]


def records(runs: Sequence[RunState]) -> list[dict[str, Any]]:
    """Each run as plain values, for programs."""
    changed = standing_out([run.settings for run in runs])
    return [
        {**record(run), "settings": settings} for run, settings in zip(runs, changed, strict=True)
    ]


def record(run: RunState) -> dict[str, Any]:
    """A run as plain values, without its settings."""
    best = run.best
    return {
        "name": run.name,
        "state": run.state,
        "perhaps": run.perhaps,
        "last_words": run.words,
        "step": run.step,
        "epochs_done": run.epochs_done,
        "total_epochs": run.total_epochs,
        "best_top1": best.score if best is not None and best.metric == "top-1" else None,
        "best_map": best.score if best is not None and best.metric == "mAP" else None,
        "best_weights": None if best is None else ("ema" if best.ema else "raw"),
        "best_epoch": None if best is None else best.epoch,
        "changed": datetime.fromtimestamp(run.changed_s, UTC).isoformat(timespec="seconds"),
    }


def find_run(folder: Path, name: str) -> RunState:
    """A run by its name in a folder, or by its path.

    Raises:
        CheckpointError: there is none.
    """
    for path in (folder / name, Path(name)):
        if is_run(path):
            return read_run(path)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(name, names, n=3)
    advice = f"similar names: {', '.join(near)}" if near else "ixt runs lists them"
    raise CheckpointError(f"{folder / name}: is no run; {advice}")


def differences(first: RunState, second: RunState) -> list[tuple[str, Any, Any]]:
    """Results of two runs, then the settings in which they differ: what it is, and both values."""
    results = [
        (key, value, record(second)[key]) for key, value in record(first).items() if key != "name"
    ]
    keys = differing(first.settings, second.settings)
    return results + [(key, first.settings.get(key), second.settings.get(key)) for key in keys]


def _filter(text: str, runs: Sequence[RunState]) -> Callable[[RunState], bool]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise IxtError(
            f"--filter {text}: write it as KEY=VALUE, e.g. state=crashed or optim.lr=1e-3"
        )
    if key == "name":
        return lambda run: fnmatch.fnmatchcase(run.name, value)
    if key == "state":
        if value not in STATES:
            raise IxtError(f"--filter {text}: no such state; allowed are {', '.join(STATES)}")
        return lambda run: run.state == value
    _refuse_unknown("--filter", key, runs, ("name", "state"))
    wanted = read_plain(value, f"--filter {text}", lines=False)
    return lambda run: key in run.settings and bool(run.settings[key] == wanted)


def _refuse_unknown(
    option: str, key: str, runs: Sequence[RunState], others: Iterable[str] | Mapping[str, Any]
) -> None:
    known = list(dict.fromkeys(setting for run in runs for setting in run.settings))
    if runs and key not in known:
        near = difflib.get_close_matches(key, [*others, *known], n=3)
        advice = f"similar names: {', '.join(near)}" if near else "or a setting, e.g. optim.lr"
        raise IxtError(f"{option} {key}: no run has it; allowed are {', '.join(others)}; {advice}")


def _rank(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then texts, then what is not set."""
    if isinstance(value, int | float):
        return 0, value, ""
    return (2, 0.0, "") if value is None else (1, 0.0, str(value))


def _state_text(run: RunState) -> str:
    words = "" if run.words is None else run.words
    short_words = words if len(words) <= _MOST_WORDS else f"{words[: _MOST_WORDS - 3]}..."
    return f"{run}: {short_words}" if words else str(run)


def _best_text(best: Best) -> str:
    return f"{best.metric} {best.score:.2f}{' (EMA)' if best.ema else ''}"


def _epochs(run: RunState) -> str:
    return f"{run.epochs_done} of {'?' if run.total_epochs is None else run.total_epochs}"


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
