"""Which parts of a run are trained again: windows from a kept checkpoint to the next one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ixt.checkpoint.folder import Checkpoint, checkpoint_folders, read_checkpoint
from ixt.errors import CheckpointError, DamagedCheckpoint
from ixt.pipeline.plan.hashing import hash64

KEEP_MORE = "run.checkpoint_every_steps, run.keep_last and run.keep_every_epochs keep more"


@dataclass(frozen=True)
class Window:
    """Updates of a run whose beginning and end are kept."""

    start: Checkpoint | None
    """None where the run began: its first weights follow from the recipe."""
    end: Checkpoint

    @property
    def first(self) -> int:
        """Updates done before it."""
        return self.start.step if self.start is not None else 0

    @property
    def length(self) -> int:
        """Number of its updates."""
        return self.end.step - self.first

    def __str__(self) -> str:
        return f"steps {self.first + 1:,} to {self.end.step:,}"


def find_windows(run: Path) -> list[Window]:
    """The windows of a run, oldest first; damaged checkpoints are left out.

    A run that keeps a single checkpoint has one from its beginning.

    Raises:
        CheckpointError: there is none.
    """
    kept: dict[int, Checkpoint] = {}
    for path in checkpoint_folders(run):
        try:
            checkpoint = read_checkpoint(path)
        except DamagedCheckpoint:  # reported with the checkpoints
            continue
        kept[checkpoint.step] = checkpoint
    found = list(kept.values())
    if not found:
        raise CheckpointError(f"{run}: --replay: there is no good checkpoint to train to")
    if len(found) > 1:
        return [Window(*pair) for pair in pairwise(found)]
    only = found[0]
    if only.step == 0 or not only.state.get("from_scratch"):
        began = {
            None: "an earlier version began the run, without a note of its first weights",
            False: "the run began from other weights than its recipe's",
        }.get(only.state.get("from_scratch"), "that one is of its beginning")
        raise CheckpointError(
            f"{run}: --replay: needs two good checkpoints; {only.path.name} is the only one, "
            f"and {began}; {KEEP_MORE}"
        )
    return [Window(None, only)]


def choose(windows: list[Window], count: int) -> list[Window]:
    """The shortest windows, in the order in which they were trained.

    Among equally long ones a hash of the run's seed decides, so that the choice is the same
    whenever it is made, and spread over the run.
    """

    def order(window: Window) -> tuple[int, int]:
        seed = window.end.state.get("recipe", {}).get("run", {}).get("seed", 0)
        return window.length, int(hash64(seed, window.first, window.end.step))

    chosen = sorted(windows, key=order)[:count]
    return sorted(chosen, key=lambda window: window.first)
