"""`ixt verify --replay`: windows of a run, trained again and compared with what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ixt.checkpoint.folder import Checkpoint
from ixt.checkpoint.stored_recipe import changes, few_changes, recipe_in_state
from ixt.distributed.launch.environment import launched
from ixt.errors import DataError, Diverged, EngineError
from ixt.pipeline.from_recipe import usable_index
from ixt.runs.verify.finding import Finding
from ixt.runs.verify.replay.bounds import bound, distance
from ixt.runs.verify.replay.compare import (
    compare_tensors,
    few,
    ledger_problem,
    scalars_problem,
    stack_differences,
)
from ixt.runs.verify.replay.rerun import recipe_of, trained_again
from ixt.runs.verify.replay.windows import KEEP_MORE, Window, choose, find_windows
from ixt.runs.verify.run_folder import verify_data

_SAME = ("data", "class_names")


class _Different(Exception):
    """What a run recorded is not what training again gives."""


def replay_run(run: Path, count: int, data: str | None) -> list[Finding]:
    """Train windows of a run again and compare their ends with the checkpoints that it kept.

    Nothing is written to `run`; `data` None takes the images where the run found them.

    Raises:
        IxtError: there is no window, there are no images, or this machine cannot train it.
        Interrupted: a signal asked to stop.
    """
    if launched():
        raise EngineError("--replay: starts the run's processes itself; leave out the launcher")
    windows = find_windows(run)
    newest = windows[-1].end
    root = data or recipe_of(newest).data.root
    if root is None:
        raise DataError(f"{run}: --replay: where its images are is not recorded; give --data DIR")
    usable_index(recipe_of(newest).with_(data={"root": root}), "train")
    images = verify_data(newest, root) if newest.state.get("data") else []
    if not all(finding.ok for finding in images):
        left_out = "left out, because the images are not those of the run"
        return [*images, Finding("replay", False, left_out)]
    chosen = choose(windows, count)
    choice = Finding("replay", True, _choice(windows, chosen, count))
    return [*images, choice, *(_finding(window, run, root) for window in chosen)]


def _finding(window: Window, run: Path, root: str) -> Finding:
    """Whether a window trained again gives what was recorded; other errors are not its fault."""
    try:
        return Finding(str(window), True, _replay(window, run, root))
    except _Different as difference:
        return Finding(str(window), False, str(difference))


def _choice(windows: list[Window], chosen: list[Window], count: int) -> str:
    """Which windows were trained again, and why these."""
    if count > len(windows):
        return f"all there is: {len(windows)} of the {count} windows asked for; {KEEP_MORE}"
    which = "the shortest ones; of equally long ones a hash of run.seed chose"
    return f"{len(chosen)} of {len(windows)} windows between kept checkpoints, {which}"


def _replay(window: Window, run: Path, root: str) -> str:
    """Train a window again; what is the same, in words.

    Raises:
        _Different: what it gives is not what was recorded.
        IxtError: it cannot be trained.
    """
    problem = _two_runs(window)
    if problem is not None:
        raise _Different(problem)
    with _trained_again(window, run, root) as replayed:
        ledger = ledger_problem(window, run, replayed)
        if ledger is not None:
            raise _Different(ledger)
        tensors = compare_tensors(window.end, replayed)
        others = _other_stack(window, replayed)
        numbers = scalars_problem(window.end, replayed)
        if not tensors.differing and not (numbers and not others):
            where = f"on another stack ({few(others)})" if others else "on the same stack"
            return f"{tensors}, as are the rows of the ledger, {where}"
        if not others:
            raise _Different(f"{tensors if tensors.differing else numbers}, on the same stack")
        return _within_bounds(window, replayed, f"{tensors}; another stack ({few(others)})")


@contextmanager
def _trained_again(window: Window, run: Path, root: str) -> Iterator[Checkpoint]:
    """As `trained_again`; images and numbers that the run cannot have had are a difference.

    Raises:
        _Different: there are such.
    """
    with ExitStack() as stack:
        try:
            replayed = stack.enter_context(trained_again(window, run, root))
        except (DataError, Diverged) as error:
            raise _Different(f"cannot be trained again: {str(error).splitlines()[0]}") from error
        yield replayed


def _two_runs(window: Window) -> str | None:
    """What keeps the two ends of a window from being of one run, in words; None for nothing."""
    if window.start is None:
        return None
    start, end = window.start, window.end
    fixed = [
        c for c in changes(recipe_in_state(start.path, start.state), recipe_of(end)) if not c.free
    ]
    if fixed:
        return f"{start.path.name} and {end.path.name} have two recipes: {few_changes(fixed)}"
    for key in _SAME:
        was, now = start.state.get(key), end.state.get(key)
        if was and now and was != now:
            return f"{start.path.name} and {end.path.name} differ in {key}"
    return None


def _other_stack(window: Window, replayed: Checkpoint) -> list[str]:
    """What makes the stack of now another one, or makes it more than one; nothing on the same."""
    now = stack_differences(window.end, replayed)
    # Part of the window may have been trained as its start was.
    within = stack_differences(window.start, window.end) if window.start is not None else []
    return [*now, *(f"within the window {difference}" for difference in within)]


def _within_bounds(window: Window, replayed: Checkpoint, found: str) -> str:
    """Compare weights and averages within bounds; the distance in words.

    Raises:
        _Different: they are farther apart.
    """
    on_gpu = any(c.state.get("machine", {}).get("devices") for c in (window.end, replayed))
    limit = bound(window, recipe_of(window.end), on_gpu)
    files = ("model", "ema") if window.end.tensors("ema") else ("model",)
    farthest = max(distance(window, replayed, file) for file in files)
    text = f"weights are off by {farthest:.1e} of what the window changed"
    if farthest > limit:
        raise _Different(f"{text}, more than the {limit:g} that rounding explains: {found}")
    return f"{text}, within the {limit:g} that rounding explains: {found}; ledger rows are the same"
