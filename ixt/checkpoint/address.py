"""Addresses of checkpoints: `RUN`, `RUN@last`, `RUN@best`, `RUN@step-120`, or a folder's own path.

A run's folder stands for its newest checkpoint in every command: the best one is chosen by the
images that it is judged by, so it is taken only where it is asked for. What exists under the whole
name, `@` and all, wins.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ixt.checkpoint.folder import (
    MANIFEST,
    best_first,
    checkpoint_folders,
    newest_checkpoint,
    read_checkpoint,
    step_of,
)
from ixt.checkpoint.score import metric_name, score_key
from ixt.errors import CheckpointError

_STEP = re.compile(r"step-(\d+)")
_SHOWN = 8  # steps in a message
_log = logging.getLogger("ixt")


def split_address(path: Path) -> tuple[Path, str | None]:
    """The folder of a run, and what stands behind the @; None where the path is no address."""
    run, at, which = path.name.rpartition("@")
    if not at or not run or path.exists() or not path.with_name(run).is_dir():
        return path, None
    return path.with_name(run), which


def locate(path: Path) -> Path:
    """The checkpoint folder that an address names, not verified; any other path as it is.

    Raises:
        CheckpointError: the run has no such checkpoint.
    """
    run, which = split_address(path)
    if which is None:
        return path
    folders = checkpoint_folders(run)
    if not folders:
        raise CheckpointError(f"{run}: holds no checkpoints; give a run that has saved some")
    if which == "last":
        return folders[-1]
    if which == "best":
        return _best(run, folders)
    step = _STEP.fullmatch(which)
    if step is None:
        raise CheckpointError(
            f"{path}: no such file, and {which!r} names no checkpoint; write {run}@best, "
            f"{run}@last or {run}@{_text(folders[-1])}"
        )
    found = [folder for folder in folders if step_of(folder) == int(step[1])]
    if not found:
        raise CheckpointError(
            f"{path}: this step is not kept; kept are {_list(folders)}; run.keep_last and "
            "run.keep_every_epochs keep more"
        )
    return found[-1]


def checkpoint_at(path: Path) -> Path:
    """The folder of the checkpoint that a path or an address names, verified.

    RUN and RUN@last are the newest checkpoint that verifies, RUN@best and RUN@step-N others. What
    is neither an address, a run folder nor a checkpoint folder comes back as it is.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    run, which = split_address(path)
    if which == "last" or (which is None and (path / "checkpoints").is_dir()):
        newest = newest_checkpoint(run)
        if newest is not None:
            return newest.path
    folder = locate(path)
    if (folder / MANIFEST).is_file() or which is not None:
        read_checkpoint(folder)
    return folder


def describe_choice(path: Path, file: Path, kind: str) -> None:
    """Log which checkpoint of a run was taken for a path, and whether a better one is kept.

    `path` is as the user gave it; `file` holds the weights taken for it.
    """
    run, which = split_address(path)
    is_run = which is not None or (path / "checkpoints").is_dir()
    if not is_run or os.environ.get("RANK", "0") != "0":
        return
    taken, folders = file.parent, checkpoint_folders(run)
    if taken not in folders:
        return
    state = _state(taken)
    weights, prefix = ("averaged (EMA)", "ema_") if kind == "ema" else ("raw", "")
    metrics = state.get("metrics", {})
    key = prefix + ("map" if f"{prefix}map" in metrics else "top1")
    what = _moment(state, metrics, key)
    _log.warning("%s: takes %s, %s weights, %s", path, _text(taken), weights, what)
    scored = best_first(folders)
    if which is None and scored and scored[0] != taken:
        best = _state(scored[0])
        if state.get("score") is None or best["score"] > state["score"]:
            found = best["metrics"]
            words = (_text(scored[0]), _moment(best, found, score_key(found)), run)
            _log.warning("note: the best checkpoint kept is %s, %s; %s@best takes it", *words)


def _best(run: Path, folders: list[Path]) -> Path:
    scored = best_first(folders)
    if not scored:
        raise CheckpointError(
            f"{run}: none of its checkpoints was evaluated, so none is the best; kept are "
            f"{_list(folders)}"
        )
    return scored[0]


def _moment(state: Mapping[str, Any], metrics: Mapping[str, Any], key: str) -> str:
    """When in the run, with epochs as the log numbers them, and how good."""
    epoch = int(state.get("epoch", 0))
    when = f"end of epoch {epoch - 1}" if state.get("epoch_ended") else f"in epoch {epoch}"
    return f"{when}, {metric_name(key)} {metrics[key]:.2f}" if key in metrics else when


def _state(folder: Path) -> Mapping[str, Any]:
    return read_checkpoint(folder, verify=False).state


def _text(folder: Path) -> str:
    """A checkpoint as an address names it: `step-120`."""
    return f"step-{step_of(folder)}"


def _list(folders: list[Path]) -> str:
    texts = list(dict.fromkeys(map(_text, folders)))
    more = len(texts) - _SHOWN
    return ", ".join(texts[-_SHOWN:]) + (f" and {more} earlier ones" if more > 0 else "")
