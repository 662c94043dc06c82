"""Checkpoints: written whole or not at all, verified when read, the newest good one wins.

A checkpoint is a folder `checkpoints/step-000001234` of a run: safetensors files, `state.json`, and
`manifest.json` with each file's size and SHA-256. Nothing in it is a pickle. What goes into the
files is the business of `state.py`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ixt.checkpoint.state_json import FORMAT, STATE, read_state
from ixt.errors import CheckpointError, DamagedCheckpoint
from ixt.files import published, read_json, reason, sync

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d+)(\.old)?")
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
        from safetensors.torch import load_file

        file = self.path / f"{name}.safetensors"
        return load_file(file) if file.exists() else {}


def save_checkpoint(
    run_dir: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint for `state["step"]` and return its folder.

    Everything goes into a temporary folder first, reaches the disk, and takes its name in one
    rename: whoever is killed on the way leaves no folder that looks like a checkpoint. One of the
    same step is replaced; it stays readable, as `step-N.old`, until the new one has its name.

    `tensors` are by file stem and name; empty ones are left out. `state` is JSON-able and holds
    `step`.

    Raises:
        CheckpointError: the disk is full or not writable; older checkpoints stay as they are.
    """
    from safetensors.torch import save_file

    final = run_dir / CHECKPOINTS / f"step-{state['step']:09d}"
    old = final.with_name(f"{final.name}.old")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with published(final) as temporary:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            for name, named in tensors.items():
                if named:
                    flat = {key: value.contiguous() for key, value in named.items()}
                    save_file(flat, temporary / f"{name}.safetensors")
            _write_json(temporary / STATE, {"format": FORMAT, **state})
            _write_json(temporary / MANIFEST, _manifest(temporary))
            sync(temporary)
            # Older checkpoints are deleted after this: what was written is read again before.
            _verify(temporary, weights=True)
            if final.exists():
                _remove(old)
                final.rename(old)
        _remove(old)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{final}: cannot be written: {reason(error)}; older checkpoints are intact, "
            "make room or change --run-dir, then continue with --resume"
        ) from error
    return final


def newest_checkpoint(run_dir: Path) -> Checkpoint | None:
    """The newest checkpoint that verifies; damaged ones are named in the log and passed over.

    Raises:
        CheckpointError: there are checkpoints and all are damaged, or a later version wrote one:
            resuming from an older one would lose work.
    """
    folders = checkpoint_folders(run_dir)
    for path in reversed(folders):
        try:
            return read_checkpoint(path)
        except DamagedCheckpoint as error:
            _log.warning("%s; trying an older one", error)
    if folders:
        raise CheckpointError(f"{run_dir}: every checkpoint is damaged; start a new run")
    return None


def read_checkpoint(path: Path, verify: bool = True, weights: bool = True) -> Checkpoint:
    """Open a checkpoint folder and verify every file's size and checksum.

    Give verify=False where another process has done it, weights=False to verify `state.json` alone.

    Raises:
        DamagedCheckpoint: a file is missing or not what was written.
        CheckpointError: the format is newer than this version.
    """
    try:
        if verify:
            _verify(path, weights)
        state = read_state(path)
        if _step(path) not in (None, state["step"]):
            raise ValueError(f"{STATE} is of step {state['step']}, not of the folder's")
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{path}: damaged checkpoint: {reason(error)}") from error
    return Checkpoint(path, state)


def _verify(path: Path, weights: bool) -> None:
    """Compare the files with the manifest; raise OSError or ValueError where they differ."""
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or STATE not in manifest:
        raise ValueError(f"{MANIFEST} does not name {STATE}")
    for name, expected in manifest.items() if weights else [(STATE, manifest[STATE])]:
        file = path / name
        if not file.is_file():
            raise ValueError(f"{name} is missing")
        if {"bytes": file.stat().st_size, "sha256": sha256(file)} != expected:
            raise ValueError(f"{name} does not match its checksum")


def checkpoint_folders(run_dir: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first; one goes after the `.old` that it replaced."""
    names = ((path, _NAME.fullmatch(path.name)) for path in (run_dir / CHECKPOINTS).glob("step-*"))
    found = {path: (int(name[1]), name[2] is None) for path, name in names if name is not None}
    return sorted(found, key=found.__getitem__)


def kept_checkpoints(run_dir: Path) -> list[Checkpoint]:
    """The checkpoints of a run whose `state.json` is readable, oldest first; none is verified."""
    states = {path: _state(path) for path in checkpoint_folders(run_dir) if _step(path) is not None}
    return [Checkpoint(path, state) for path, state in states.items() if state]


def sweep(
    run_dir: Path, newest: int, keep_last: int, keep_best: int, keep_every_epochs: int | None = None
) -> None:
    """Delete the checkpoints that nobody needs, and what killed writers left behind.

    Called after a checkpoint was written. Later ones than that are damaged (else the run would
    have resumed from them) and go too: counted as the last ones, they would push good ones out.
    What cannot be deleted is named in the log and stays.

    `newest` is the step of the checkpoint just written. The `keep_last` newest ones stay, at least
    1, the `keep_best` ones with the highest `state["score"]`, and for good one of every
    `keep_every_epochs` epochs, written at its end.
    """
    steps = {path: _step(path) for path in checkpoint_folders(run_dir)}
    present = [path for path, step in steps.items() if step is not None and step <= newest]
    states = {path: _state(path) for path in present}
    keep = to_keep(states, keep_last, keep_best, keep_every_epochs)
    for path in steps.keys() - keep:
        _remove(path)
    for leftover in (run_dir / CHECKPOINTS).glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def to_keep(
    states: Mapping[Path, Mapping[str, Any]],
    keep_last: int,
    keep_best: int,
    keep_every_epochs: int | None = None,
) -> set[Path]:
    """The checkpoints that a run keeps, of these with their states, oldest first; see `sweep`."""
    best = _best_first(states)[:keep_best]
    forever = [path for path, state in states.items() if _ends_epoch(state, keep_every_epochs)]
    return {*list(states)[-keep_last:], *best, *forever}


def best_first(folders: Iterable[Path]) -> list[Path]:
    """Those that were evaluated, by falling top-1; of equal ones the later one first."""
    return _best_first({path: _state(path) for path in folders})


def _best_first(states: Mapping[Path, Mapping[str, Any]]) -> list[Path]:
    scores = {path: s["score"] for path, s in states.items() if s.get("score") is not None}
    return sorted(scores, key=lambda path: (scores[path], path.name), reverse=True)


def step_of(path: Path) -> int:
    """The step in the name of one of `checkpoint_folders`."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _step(path: Path) -> int | None:
    """The step in a folder's name; None for one that another has replaced."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match and not match[2] else None


def _ends_epoch(state: Mapping[str, Any], every: int | None) -> bool:
    """Whether it was written at the end of an epoch whose number, from 1, `every` divides."""
    return (
        every is not None and state.get("epoch_ended", False) and state.get("epoch", 1) % every == 0
    )


def _state(path: Path) -> Mapping[str, Any]:
    """What state.json says, to choose by; nothing where it is damaged."""
    try:
        return read_checkpoint(path, verify=False).state
    except CheckpointError:
        return {}


def _remove(path: Path) -> None:
    """Delete a checkpoint; renamed first, since a kill inside rmtree leaves half of it."""
    if not path.exists():
        return
    doomed = path.with_name(f".tmp-del-{path.name}")
    try:
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        _log.warning("%s: cannot be deleted: %s", path, reason(error))


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
