"""What a run's folder says about the run, however little of it is there or whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ixt.checkpoint.score import full_name, score_key
from ixt.distributed.machine import MACHINE
from ixt.errors import CheckpointError, RecipeError
from ixt.files import read_json, reason, refuse_url
from ixt.monitor.row_file import METRICS, read_row
from ixt.recipe import RUN_RECIPE
from ixt.recipe.plain_yaml import read_plain
from ixt.runs.report.evaluation import EVALUATION, Evaluation
from ixt.runs.report.first_batch import FIRST_BATCH, FirstBatch
from ixt.runs.settings import Settings, flat

T = TypeVar("T")
Stored = TypeVar("Stored", bound=BaseModel)
Row = dict[str, Any]


@dataclass
class RunFolder:
    """A run as its folder describes it."""

    path: Path
    """Absolute."""
    recipe: Settings = field(default_factory=dict)
    """The resolved recipe; a key that its version did not have has its default."""
    steps: list[Row] = field(default_factory=list)
    """Rows of the log intervals."""
    epochs: list[Row] = field(default_factory=list)
    """Rows of the evaluations."""
    evaluation: Evaluation | None = None
    first_batch: FirstBatch | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What could not be read, in words."""

    @property
    def name(self) -> str:
        """What people call it."""
        return self.path.name

    @property
    def updates_per_epoch(self) -> float | None:
        """None before the first evaluation."""
        if not self.epochs:
            return None
        last = self.epochs[-1]
        return float(last["step"] / (last["epoch"] + 1))

    @property
    def last_step(self) -> int:
        """Updates done, as far as rows say."""
        return max((rows[-1]["step"] for rows in (self.steps, self.epochs) if rows), default=0)

    @property
    def score_key(self) -> str:
        """The metric by which the run's checkpoints are ranked."""
        return score_key(
            {key for row in self.epochs for key in row if number(row, key) is not None}
        )

    @property
    def score_name(self) -> str:
        """That metric for people."""
        return full_name(self.score_key)

    @property
    def best(self) -> Row | None:
        """The evaluation with the highest score, the first of several; None without one."""
        scored = [row for row in self.epochs if number(row, self.score_key) is not None]
        return max(scored, key=lambda row: float(row[self.score_key]), default=None)


def read_run(path: Path) -> RunFolder:
    """Read what a run's folder holds; what is missing or damaged is named in `problems`.

    Raises:
        CheckpointError: there is no run.
    """
    refuse_url(path, reads=True)
    try:
        found = path.is_dir() and any((path / name).exists() for name in (RUN_RECIPE, METRICS))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason(error)})") from error
    if not found:
        raise CheckpointError(
            f"{path}: holds no run: there is neither {RUN_RECIPE} nor {METRICS}; give the folder "
            "of a run"
        )
    run = RunFolder(path.resolve())
    run.recipe = _read(run, RUN_RECIPE, _read_recipe) or {}
    _read_rows(run, _read(run, METRICS, Path.read_bytes) or b"")
    machine = _read(run, MACHINE, read_json)
    run.machine = machine if isinstance(machine, dict) else {}
    run.first_batch = _read(run, FIRST_BATCH, partial(_read_stored, FirstBatch))
    evaluation = _read(run, EVALUATION, partial(_read_stored, Evaluation))
    if evaluation is not None and all(row["step"] != evaluation.step for row in run.epochs):
        run.problems.append(
            f"{EVALUATION} is of step {evaluation.step:,}, of which {METRICS} has no row; it is "
            "left out"
        )
    else:
        run.evaluation = evaluation
    return run


def _read(run: RunFolder, name: str, read: Callable[[Path], T]) -> T | None:
    """What a file of the folder holds; None where there is none, or it cannot be read."""
    try:
        return read(run.path / name)
    except FileNotFoundError:
        if name in (RUN_RECIPE, METRICS):
            run.problems.append(f"{name} is missing")
    except RecipeError as error:
        run.problems.append(str(error).splitlines()[0])
    except (OSError, ValueError) as error:
        run.problems.append(f"{name} cannot be read ({reason(error)})")
    return None


def _read_stored(kind: type[Stored], path: Path) -> Stored:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError:
        raise ValueError("it is damaged, or of another version") from None


def _read_rows(run: RunFolder, content: bytes) -> None:
    """Sort rows by their kind; the last line may be half written, by a run that trains now."""
    *whole, last = content.split(b"\n")
    rows = [read_row(line) for line in whole]
    bad = sum(row is None for row in rows)
    for row in [*rows, read_row(last)]:
        if row is None:
            continue
        if row.get("kind") == "epoch" and type(row.get("epoch")) is int and row["epoch"] >= 0:
            run.epochs.append(row)
        elif row.get("kind") == "steps":
            run.steps.append(row)
    if bad:
        run.problems.append(f"{METRICS}: {bad:,} lines are no rows; they are left out")


def number(row: Row, key: str) -> float | None:
    """A finite number of a row; None where there is none, e.g. in rows of an older version."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _read_recipe(path: Path) -> Settings:
    return _settings(path.read_bytes().decode(errors="replace"), path.name)


@lru_cache(8)  # it is read at every evaluation, and YAML is slow
def _settings(text: str, source: str) -> Settings:
    """The settings of a recipe, of this version or another one.

    Raises:
        RecipeError: it is not YAML.
    """
    content = read_plain(text, source)
    if not isinstance(content, dict):
        raise RecipeError(f"{source}: holds no sections")
    return flat(content)
