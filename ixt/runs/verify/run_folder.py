"""Whether a run and its checkpoints are as they were written, and go together."""

from __future__ import annotations

from pathlib import Path

from ixt.checkpoint.folder import Checkpoint, checkpoint_folders, read_checkpoint
from ixt.checkpoint.stored_recipe import file_problem, recipe_in_state, stored_recipe
from ixt.distributed.machine import MACHINE
from ixt.errors import CheckpointError, DataError
from ixt.files import read_json
from ixt.images.data_digest import digest_images
from ixt.images.folders import Split
from ixt.monitor.row_file import LEDGER, METRICS, find_damage, first_gap, read_row
from ixt.recipe import RUN_RECIPE
from ixt.runs.verify.finding import Finding, checked
from ixt.training.same_data import other_data

_SPLITS: tuple[Split, ...] = ("train", "val")


def verify_run(run: Path, data: str | None) -> list[Finding]:
    """Check a run's folder; see `verify`."""
    findings, newest = [], None
    for path in checkpoint_folders(run):
        finding, checkpoint = _checkpoint(path)
        if finding.ok or path.exists():  # a run that trains now deletes old ones
            findings.append(finding)
        newest = checkpoint or newest
    if newest is None:
        missing = Finding("checkpoints", False, "there is no good one; start a new run")
        return [*findings, missing]
    findings.append(checked(RUN_RECIPE, lambda: _recipe(run)))
    for name in (LEDGER, METRICS):
        findings.append(checked(name, lambda name=name: _rows(run / name, newest)))  # type: ignore[misc]
    findings.append(checked(MACHINE, lambda: _machine(run)))
    return findings + verify_data(newest, data)


def verify_checkpoint(path: Path, data: str | None) -> list[Finding]:
    """Check a checkpoint's folder; see `verify`."""
    finding, checkpoint = _checkpoint(path)
    return [finding, *(verify_data(checkpoint, data) if checkpoint is not None else [])]


def _checkpoint(path: Path) -> tuple[Finding, Checkpoint | None]:
    found: list[Checkpoint] = []

    def check() -> str:
        found.append(read_checkpoint(path))
        sizes = [file.stat().st_size for file in path.iterdir()]
        return f"{len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB, as their checksums say"

    finding = checked(path.name, check)
    return finding, found[0] if found else None


def _recipe(run: Path) -> str:
    stored = stored_recipe(run)
    if stored is None:
        raise CheckpointError("no checkpoint holds a recipe to compare with")
    problem = file_problem(run, stored)
    if problem is not None:
        raise CheckpointError(problem)
    return f"is the recipe in {stored.checkpoint.name}"


def _rows(file: Path, newest: Checkpoint) -> str:
    """Compare rows with what a checkpoint keeps of them, and with each other.

    Raises:
        CheckpointError: they are damaged, or of other data.
        OSError: they cannot be read.
    """
    record = newest.state.get("rows", {}).get(file.name)
    damage = find_damage(file, record)
    if damage is None and not file.exists():
        damage = "is missing"
    if damage is not None:
        raise CheckpointError(damage)
    # A run that trains now may be about to end the last line.
    content = file.read_bytes()
    if record is not None and len(content) < record["bytes"]:
        raise CheckpointError("became shorter while it was read")
    lines = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
    rows = [row for row in map(read_row, lines) if row is not None]
    last = rows[-1]["step"] if rows else 0
    dense = file.name == LEDGER
    gap = first_gap(lines, dense)
    if gap is None and dense and last < newest.step:
        gap = f"ends at step {last:,}, before {newest.path.name}"
    if gap is None and dense:
        gap = _mixed_data(rows, newest)
    if gap is not None:
        raise CheckpointError(gap)
    known = "as its hash says" if record is not None else "no hash to compare with"
    return f"{len(rows):,} rows without a gap, to step {last:,}; up to {newest.path.name} {known}"


def _mixed_data(rows: list[dict[str, object]], newest: Checkpoint) -> str | None:
    """A row of other data than the checkpoint was trained on, in words."""
    train = newest.state.get("data", {}).get("train")
    if train is None or newest.state.get("ledger_format", 1) < 2:
        return None
    own = train["digest"][:16]
    other = next((row for row in rows if row.get("data") != own), None)
    if other is None:
        return None
    return f"step {other['step']} is of data {other.get('data')}, {newest.path.name} of {own}"


def _machine(run: Path) -> str:
    content = read_json(run / MACHINE)
    if not isinstance(content, dict):
        raise ValueError("is not an object")
    return f"ixt {content.get('ixt')}, {content.get('processes')} processes"


def verify_data(checkpoint: Checkpoint, root: str | None) -> list[Finding]:
    """Compare a folder of images with those that a checkpoint was trained on."""
    if root is None:
        return []
    from ixt.pipeline.from_recipe import usable_index

    stored = recipe_in_state(checkpoint.path, checkpoint.state)
    recipe = stored.recipe.with_(data={"root": root})

    def check(split: Split) -> str:
        if split not in checkpoint.state.get("data", {}):
            raise DataError("an earlier version wrote the checkpoint, without a digest of the data")
        digest = digest_images(usable_index(recipe, split))
        other = other_data(checkpoint, {split: digest})
        if other is not None:
            raise DataError(other)
        return f"{digest.num_images:,} images, those of {checkpoint.path.name}"

    return [checked(f"{split} of {root}", lambda split=split: check(split)) for split in _SPLITS]  # type: ignore[misc]
