"""Addresses of checkpoints: which folder each one means, and what is said of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from ixt.checkpoint.address import locate
from ixt.checkpoint.folder import save_checkpoint
from ixt.checkpoint.weight_files import find_weights
from ixt.checkpoint.weights import read_weights
from ixt.errors import CheckpointError, DamagedCheckpoint
from ixt.evaluate.average import average_checkpoints
from ixt.runs.verify import verify

SCORES = {100: 70.0, 120: 75.0, 200: 74.0}


def write_run(run: Path, scores: dict[int, float | None]) -> Path:
    for step, score in scores.items():
        tensors = {name: {"weight": torch.full((2,), float(step))} for name in ("model", "ema")}
        metrics = {} if score is None else {"top1": score - 1, "ema_top1": score}
        state = {"step": step, "epoch": step // 20, "epoch_ended": step % 20 == 0}
        save_checkpoint(run, tensors, {**state, "score": score, "metrics": metrics})
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", dict(SCORES))


def step_at(address: str) -> float:
    return float(read_weights(address).state["weight"][0])


def test_an_address_names_the_newest_the_best_or_a_step(run: Path) -> None:
    assert step_at(f"{run}") == step_at(f"{run}@last") == 200
    assert step_at(f"{run}@best") == 120
    assert step_at(f"{run}@step-100") == step_at(f"{run}@step-000000100") == 100


def test_what_is_taken_is_said_and_so_is_a_better_one(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_weights(run)
    assert caplog.messages == [
        f"{run}: takes step-200, averaged (EMA) weights, end of epoch 9, top-1 74.00",
        f"note: the best checkpoint kept is step-120, end of epoch 5, top-1 75.00; {run}@best "
        "takes it",
    ]
    caplog.clear()
    read_weights(f"{run}@best", prefer_ema=False)
    assert caplog.messages == [
        f"{run}@best: takes step-120, raw weights, end of epoch 5, top-1 74.00"
    ]


def test_a_better_mAP_is_said_as_mAP(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = {name: {"weight": torch.zeros(1)} for name in ("model", "ema")}
    for step, score, top1 in ((20, 48.0, 34.0), (40, 44.0, 37.0)):
        metrics = {"top1": top1, "map": score - 1, "ema_top1": top1, "ema_map": score}
        state = {"step": step, "epoch": step // 20, "epoch_ended": True, "score": score}
        save_checkpoint(tmp_path, tensors, {**state, "metrics": metrics})
    read_weights(tmp_path)
    assert caplog.messages == [
        f"{tmp_path}: takes step-40, averaged (EMA) weights, end of epoch 1, mAP 44.00",
        f"note: the best checkpoint kept is step-20, end of epoch 0, mAP 48.00; {tmp_path}@best "
        "takes it",
    ]


def test_a_newest_checkpoint_that_was_not_evaluated_is_not_called_worse(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run", {100: 70.0, 130: None})
    read_weights(run)
    assert caplog.messages[0].endswith("takes step-130, averaged (EMA) weights, in epoch 6")
    assert "the best checkpoint kept is step-100" in caplog.messages[1]


def test_the_best_run_so_far_needs_no_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_weights(write_run(tmp_path / "run", {100: 70.0, 120: 70.0}))
    assert len(caplog.messages) == 1


def test_an_existing_path_with_an_at_wins(run: Path) -> None:
    odd = write_run(run.with_name("run@best"), {7: 1.0})
    assert step_at(f"{odd}") == 7
    assert step_at(f"{odd}@last") == 7
    file = run.with_name("run@step-100")
    file.write_bytes((run / "checkpoints" / "step-000000120" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"not a file of torch\.save"):
        read_weights(file)


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("step-110", r"this step is not kept; kept are step-100, step-120, step-200; "),
        ("Best", r"'Best' names no checkpoint; write .*run@best, .*run@last or .*run@step-200$"),
        ("", r"'' names no checkpoint"),
        ("step--1", r"'step--1' names no checkpoint"),
    ],
)
def test_an_address_of_nothing_is_one_line_that_lists_what_is_kept(
    run: Path, which: str, said: str
) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        find_weights(f"{run}@{which}")
    assert "\n" not in str(caught.value)


def test_a_run_without_evaluations_has_no_best(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {100: None})
    with pytest.raises(CheckpointError, match=r"none of its checkpoints was evaluated.*step-100"):
        find_weights(f"{run}@best")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty: holds no checkpoints"):
        find_weights(tmp_path / "empty@best")
    with pytest.raises(CheckpointError, match="nowhere@best: no such file"):
        find_weights(tmp_path / "nowhere@best")


def test_a_damaged_checkpoint_that_was_asked_for_is_refused_not_replaced(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "checkpoints" / "step-000000120" / "ema.safetensors").write_bytes(b"x")
    with pytest.raises(DamagedCheckpoint, match=r"step-000000120: damaged.*ema\.safetensors"):
        find_weights(f"{run}@best")
    assert [finding.ok for finding in verify(Path(f"{run}@best"))] == [False]
    (run / "checkpoints" / "step-000000200" / "ema.safetensors").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert step_at(f"{run}@last") == 100
    assert "step-000000200: damaged checkpoint" in caplog.text


def test_an_average_is_of_a_whole_run(run: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"run@best: --average chooses .*; give {run}$"):
        average_checkpoints(Path(f"{run}@best"), "last:2")


def test_a_path_that_is_no_address_is_itself(run: Path) -> None:
    for path in (run, run / "checkpoints" / "step-000000100", Path("a@b/c"), Path("@best")):
        assert locate(path) == path
