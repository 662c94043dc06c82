"""Checkpoints: written whole or not at all, verified when read, the newest good one wins.

A checkpoint is a folder `checkpoints/step-000001234` of a run: safetensors files, `state.json`, and
`manifest.json` with each file's size and SHA-256. Nothing in it is a pickle. What goes into the
files is the business of `state.py`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ixt.errors import CheckpointError

FORMAT = 1
_FOLDER = "checkpoints"
_STATE = "state.json"
_MANIFEST = "manifest.json"
_log = logging.getLogger("ixt")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint folder."""

    path: Path
    state: Mapping[str, Any]
    """What `state.json` holds: step, recipe, class names, metrics, ..."""

    @property
    def step(self) -> int:
        """Optimizer updates done when it was written."""
        return int(self.state["step"])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one of its files, on the CPU; empty where it has no such file."""
        file = self.path / f"{name}.safetensors"
        return load_file(file) if file.exists() else {}


def save_checkpoint(
    run_dir: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint for `state["step"]` and return its folder.

    Everything goes into a temporary folder first, reaches the disk, and takes its name in one
    rename: whoever is killed on the way leaves no folder that looks like a checkpoint.

    Args:
        run_dir: folder of the run.
        tensors: file stem to named tensors; empty ones are left out.
        state: JSON-able; must hold `step`.

    Raises:
        CheckpointError: the disk is full or not writable; older checkpoints stay as they are.
    """
    folder = run_dir / _FOLDER
    final = folder / f"step-{state['step']:09d}"
    temporary = folder / f".tmp-{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, named in tensors.items():
            if named:
                flat = {key: value.contiguous() for key, value in named.items()}
                save_file(flat, temporary / f"{name}.safetensors")
        _write_json(temporary / _STATE, {"format": FORMAT, **state})
        _write_json(temporary / _MANIFEST, _manifest(temporary))
        for file in temporary.iterdir():
            _fsync(file)
        _fsync(temporary)
        _remove(final)
        temporary.rename(final)
        _fsync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{final}: cannot be written: {error}; older checkpoints are intact, "
            "make room or change --run-dir, then go on with --resume"
        ) from error
    return final


def newest_checkpoint(run_dir: Path) -> Checkpoint | None:
    """The newest checkpoint that verifies; damaged ones are named in the log and passed over.

    Raises:
        CheckpointError: there are checkpoints and all are damaged.
    """
    folders = checkpoint_folders(run_dir)
    for path in reversed(folders):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            _log.warning("%s; trying an older one", error)
    if folders:
        raise CheckpointError(f"{run_dir}: every checkpoint is damaged; start a new run")
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint folder and verify every file's size and checksum.

    Raises:
        CheckpointError: a file is missing or damaged, or the format is newer than this version.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        state = json.loads((path / _STATE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint: {error}") from error
    for name, expected in manifest.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{path}: damaged checkpoint: {name} is missing")
        if file.stat().st_size != expected["bytes"] or sha256(file) != expected["sha256"]:
            raise CheckpointError(f"{path}: damaged checkpoint: {name} does not match its checksum")
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: has format {state.get('format')}, this version reads {FORMAT}; update ixt"
        )
    return Checkpoint(path, state)


def checkpoint_folders(run_dir: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    return sorted((run_dir / _FOLDER).glob("step-*"))


def sweep(run_dir: Path, keep_last: int, keep_best: int) -> None:
    """Delete all but the newest and the best checkpoints, and what killed writers left behind.

    Args:
        run_dir: folder of the run.
        keep_last: newest ones to keep, at least 1.
        keep_best: ones with the highest `state["score"]` to keep besides.
    """
    folders = checkpoint_folders(run_dir)
    scores = {path: score for path in folders if (score := _score(path)) is not None}
    best = sorted(scores, key=lambda path: (scores[path], path.name), reverse=True)[:keep_best]
    for path in folders[:-keep_last]:
        if path not in best:
            _remove(path)
    for leftover in (run_dir / _FOLDER).glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _score(path: Path) -> float | None:
    try:
        score = json.loads((path / _STATE).read_text()).get("score")
    except (OSError, ValueError):
        return None
    return None if score is None else float(score)


def _remove(path: Path) -> None:
    """Delete a checkpoint; renamed first, since a kill inside rmtree leaves half of it."""
    if path.exists():
        doomed = path.with_name(f".tmp-del-{path.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.iterdir())
    }


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_json(file: Path, data: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=1) + "\n")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
