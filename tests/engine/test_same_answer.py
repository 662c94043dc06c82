"""The same recipe gives the same losses and weights whatever engine trains it, on 1 or 2 processes.

Tolerances: gradients are summed in another order. Weights are compared under SGD only: Adam turns
the rounding noise of a gradient that is truly zero (a bias in front of batch norm) into whole steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import Result, Sections, Train, TrainTogether, changed, farthest, weights

from ixt.checkpoint import checkpoint_folders

LOSS = 5e-6
WEIGHT = 1e-6
ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "zero 0": {"kind": "deepspeed", "zero_stage": 0},
    "zero 1": {"kind": "deepspeed", "zero_stage": 1},
    "zero 2": {"kind": "deepspeed", "zero_stage": 2},
    "zero 3": {"kind": "deepspeed", "zero_stage": 3},
}
SHORT = ("ddp", "zero 1", "zero 3")


def assert_same(result: Result, reference: Result) -> None:
    assert len(reference.losses) == 20
    assert result.losses == pytest.approx(reference.losses, abs=LOSS)
    for name in ("model", "ema"):
        assert farthest(weights(result, name), weights(reference, name)) < WEIGHT


@pytest.fixture(scope="module")
def alone(sections: Sections, train_here: Train) -> Result:
    """The reference: one process, DDP's code path, 4 micro-batches one after another."""
    return train_here(sections)


@pytest.fixture(scope="module")
def two(sections: Sections, train_together: TrainTogether) -> dict[str, Result]:
    """Two processes, 2 micro-batches each."""
    return train_together({name: changed(sections, engine=ENGINES[name]) for name in SHORT})


@pytest.mark.parametrize("engine", SHORT)
def test_two_processes_do_what_one_does(alone: Result, two: dict[str, Result], engine: str) -> None:
    assert_same(two[engine], alone)


@pytest.mark.parametrize("engine", ["zero 0", "zero 2"])
def test_one_process_under_deepspeed_does_what_one_without_does(
    alone: Result, sections: Sections, train_here: Train, engine: str
) -> None:
    assert_same(train_here(changed(sections, engine=ENGINES[engine])), alone)


def test_the_averaged_weights_are_evaluated_alike(two: dict[str, Result]) -> None:
    """Same processes, so also the same batch-norm statistics."""
    assert two["ddp"].metrics["ema_loss"] != two["ddp"].metrics["loss"]
    for engine in ("zero 1", "zero 3"):
        for key in ("loss", "ema_loss", "top1", "ema_top1", "count"):
            assert two[engine].metrics[key] == pytest.approx(two["ddp"].metrics[key], abs=LOSS)


def test_gradients_are_exchanged_once_per_update(two: dict[str, Result]) -> None:
    """Not once per micro-batch, of which an update has two in each process here."""
    assert two["ddp"].collectives == {"c10d::allreduce_": 1}


@pytest.mark.parametrize("engine", SHORT)
def test_a_checkpoint_goes_on_under_another_engine_in_one_process(
    two: dict[str, Result],
    alone: Result,
    sections: Sections,
    train_here: Train,
    tmp_path: Path,
    engine: str,
) -> None:
    run_dir = two[engine].cut(tmp_path / "run", num_checkpoints=3)
    target = "zero 2" if engine == "ddp" else "ddp"
    result = train_here(changed(sections, engine=ENGINES[target]), run_dir, resume=True)
    assert_same(result, alone)
