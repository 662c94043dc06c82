"""When checkpoints are written, what is left after a stop, and what a failed write does."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from few_digits import link_few_digits
from run_files import rows, stop_after

from ixt.checkpoint.folder import checkpoint_folders, save_checkpoint
from ixt.distributed.run_lock import locked
from ixt.errors import CheckpointError, Diverged, EngineError, Interrupted
from ixt.models import create_model
from ixt.pipeline.plan.plan import Planner
from ixt.recipe import Recipe, parse_recipe
from ixt.training import loop as training
from ixt.training import model, saving
from ixt.training.interval import IntervalLog
from ixt.training.loop import train

Sections = dict[str, dict[str, object]]


@pytest.fixture(scope="module")
def few_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link_few_digits(digits, tmp_path_factory.mktemp("few"))


@pytest.fixture
def short(tiny_sections: Sections, few_digits: Path) -> Callable[..., Recipe]:
    """One epoch of five updates; keyword arguments change the run section."""

    def build(epochs: int = 1, **run: object) -> Recipe:
        return parse_recipe(
            tiny_sections
            | {
                "data": {"root": str(few_digits), "num_threads": 1},
                "engine": {"global_batch_size": 64, "micro_batch_size": 32},
                "schedule": {"epochs": epochs, "unit": "update"},
                "run": {"log_every_steps": 2, "trackers": [], "keep_last": 9, **run},
            }
        )

    return build


def steps(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoint_folders(run)]


def test_minutes_are_looked_at_with_every_log_row(
    short: Callable[..., Recipe], tmp_path: Path
) -> None:
    train(short(checkpoint_every_minutes=1e-9), tmp_path / "always")
    assert steps(tmp_path / "always") == [2, 4, 5]
    train(short(checkpoint_every_minutes=1e9), tmp_path / "never")
    assert steps(tmp_path / "never") == [5]


def test_written_meanwhile_or_at_once_a_checkpoint_has_the_same_bits(
    short: Callable[..., Recipe], tmp_path: Path
) -> None:
    for name, background in (("meanwhile", True), ("at once", False)):
        recipe = short(async_checkpoints=background, checkpoint_every_steps=1)
        train(recipe, tmp_path / name)
    one, other = (checkpoint_folders(tmp_path / name) for name in ("meanwhile", "at once"))
    assert len(one) == len(other) == 5
    for left, right in zip(one, other, strict=True):
        for file in left.glob("*.safetensors"):
            assert file.read_bytes() == (right / file.name).read_bytes()


def test_a_failed_write_stops_the_run_at_its_next_update(
    short: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def full(run_dir: Path, tensors: Any, state: Any) -> Path:
        written.append(state["step"])
        if state["step"] == 2:
            raise CheckpointError("no room")
        return save_checkpoint(run_dir, tensors, state)

    monkeypatch.setattr(saving, "save_checkpoint", full)
    with pytest.raises(CheckpointError, match="no room"):
        train(short(checkpoint_every_steps=1), tmp_path / "run")
    assert written == [1, 2]
    assert steps(tmp_path / "run") == [1]


def test_spoiled_weights_are_not_saved_as_good_ones(
    short: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = training.train_step

    def step(run: Any, number: int, *rest: Any) -> Any:
        # A finite loss, and a gradient that is not: the next loss would tell.
        weight = next(run.model.parameters())
        hook = weight.register_hook(lambda grad: grad * (math.inf if number == 3 else 1.0))
        mean = original(run, number, *rest)
        hook.remove()
        return mean

    monkeypatch.setattr(training, "train_step", step)
    told = r"weights are not finite in step 3 at learning rate .*: step-000000002; lower optim\.lr"
    with pytest.raises(Diverged, match=told):
        train(short(checkpoint_every_steps=2), tmp_path / "run")
    assert steps(tmp_path / "run") == [2]


def test_a_stop_waits_for_its_checkpoint(
    short: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        train(short(), tmp_path / "run")
    assert steps(tmp_path / "run") == [3]


def test_a_stop_at_the_end_of_an_epoch_does_not_lose_its_evaluation(
    short: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = short(epochs=2), tmp_path / "run"
    train(recipe, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Interrupted, match="step 5"):
            train(recipe, run)
    with monkeypatch.context() as patch:  # once more: evaluated, but killed before it was saved

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(training, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, run, resume=True)
    assert [row["kind"] for row in rows(run, "metrics.jsonl")][-1] == "epoch"
    train(recipe, run, resume=True)
    epochs = [
        [row for row in rows(tmp_path / name, "metrics.jsonl") if row["kind"] == "epoch"]
        for name in ("run", "unbroken")
    ]
    assert len(epochs[0]) == 2
    assert epochs[0] == epochs[1]


def test_going_on_neither_fetches_nor_prepares_weights(
    short: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, fetched = short().with_(model={"pretrained": True}), []

    def create(*names: Any, pretrained: bool, **arguments: Any) -> Any:
        fetched.append(pretrained)
        return create_model(*names, pretrained=False, **arguments)

    monkeypatch.setattr(model, "create_model", create)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run", resume=True, prepare=lambda _: pytest.fail("prepared again"))
    assert fetched == [True, False]


def test_an_evaluation_that_fails_costs_no_epoch(
    short: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = short(), tmp_path / "run"

    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("ixt.evaluate.inference.new_table", too_large)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        with pytest.raises(
            EngineError, match=r"with eval\.batch_size 120; lower it and continue with --resume"
        ):
            train(recipe, run)
    assert steps(run) == [5]
    # What the message asks for.
    smaller = recipe.with_(eval={"batch_size": 7})
    assert train(smaller, run, resume=True)["top1"] >= 0
    assert steps(run) == [5]


def test_every_log_drops_what_a_killed_run_did_beyond_its_checkpoint(
    short: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stop_after(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(short(), run)
    monkeypatch.undo()
    before = {name: rows(run, name) for name in ("metrics.jsonl", "ledger.jsonl")}
    (run / "skipped.jsonl").write_text('{"step": 2, "path": "a", "reason": "b"}\n')
    for name in ("metrics.jsonl", "ledger.jsonl", "skipped.jsonl"):
        with (run / name).open("a") as stream:
            stream.write('{"step": 3, "kind": "steps"}\n\0\0\xff\n7\n{"ste')
    train(short(), run, resume=True)
    for name, kept in before.items():
        assert rows(run, name)[: len(kept)] == kept
    assert [row["step"] for row in rows(run, "ledger.jsonl")] == [1, 2, 3, 4, 5]
    assert rows(run, "skipped.jsonl") == [{"step": 2, "path": "a", "reason": "b"}]


def test_tensorboard_shows_no_step_twice(
    short: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = short(trackers=["tensorboard"], checkpoint_every_steps=3), tmp_path / "run"
    logged = IntervalLog.rows_due

    def killed(log: IntervalLog, step: int) -> None:
        logged(log, step)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(IntervalLog, "rows_due", killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, run)
    train(recipe, run, resume=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "ixt"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 3, 4, 5]


def test_a_second_start_in_the_same_folder_is_refused(
    short: Callable[..., Recipe], tmp_path: Path
) -> None:
    with locked(tmp_path), pytest.raises(CheckpointError, match="is training in this folder"):
        train(short(), tmp_path)
    train(short(), tmp_path)


def test_going_on_late_in_an_epoch_plans_nothing_of_what_is_done(
    short: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 4)
    with pytest.raises(Interrupted):
        train(short(), tmp_path / "run")
    monkeypatch.undo()
    planned: list[int] = []
    plan = Planner.plan

    def noting(planner: Planner, epoch: int, order: Any, positions: Any) -> Any:
        planned.extend(positions.tolist())
        return plan(planner, epoch, order, positions)

    monkeypatch.setattr(Planner, "plan", noting)
    train(short(), tmp_path / "run", resume=True)
    assert planned == list(range(4 * 64, 5 * 64))
