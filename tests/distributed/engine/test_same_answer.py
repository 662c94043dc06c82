"""The same recipe gives the same answer under every engine; `test_engine_matrix.py` has all."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_runs import (
    ENGINES,
    LOSS,
    Result,
    Train,
    TrainTogether,
    assert_same_answer,
    assert_same_bits,
)
from sections import Sections, changed

from ixt.errors import Diverged

SHARDED = ("zero 1", "zero 3")


@pytest.fixture(scope="module")
def sections(sections: Sections) -> Sections:
    """Half of the images, in 10 updates."""
    return changed(sections, data={"shots": 16})


@pytest.fixture(scope="module")
def alone(sections: Sections, train_here: Train) -> Result:
    """The reference: one process without DeepSpeed, 2 micro-batches of 16 one after another."""
    return train_here(sections)


@pytest.fixture(scope="module")
def two(sections: Sections, train_together: TrainTogether) -> dict[str, Result]:
    """Two processes: a micro-batch of 16 in each, or 2 of 8 under DDP."""
    jobs = {name: changed(sections, engine=ENGINES[name]) for name in SHARDED}
    jobs["ddp"] = changed(sections, engine={"micro_batch_size": 8})
    return train_together(jobs, count=["ddp"])


@pytest.mark.parametrize("engine", SHARDED)
def test_two_processes_under_zero_do_what_one_does(
    alone: Result, two: dict[str, Result], engine: str
) -> None:
    assert_same_answer(two[engine], alone)


def test_two_processes_under_ddp_do_what_one_does(
    two: dict[str, Result], sections: Sections, train_here: Train
) -> None:
    alone = train_here(changed(sections, engine={"micro_batch_size": 8}))
    assert_same_answer(two["ddp"], alone)


def test_gradients_are_exchanged_once_per_update(two: dict[str, Result]) -> None:
    """Not once per micro-batch, of which an update has two in each process here."""
    assert two["ddp"].collectives == {"c10d::allreduce_": 1}


def test_averaged_weights_are_evaluated_alike_whole_and_sharded(two: dict[str, Result]) -> None:
    whole, sharded = two["zero 1"].metrics, two["zero 3"].metrics
    assert whole["ema_loss"] != pytest.approx(whole["loss"], abs=1e-3)
    for key in ("loss", "ema_loss", "top1", "ema_top1", "count"):
        assert sharded[key] == pytest.approx(whole[key], abs=LOSS)


def test_one_process_under_zero_2_does_what_one_without_does_and_resumes_bit_for_bit(
    alone: Result, sections: Sections, train_here: Train, tmp_path: Path
) -> None:
    sharded = changed(sections, engine=ENGINES["zero 2"])
    unbroken = train_here(sharded)
    assert_same_answer(unbroken, alone)
    resumed = train_here(sharded, unbroken.cut(tmp_path / "run", 1), resume=True)
    assert_same_bits(resumed, unbroken)


@pytest.mark.parametrize(("source", "target"), [("zero 1", "ddp"), ("zero 3", "zero 3")])
def test_a_checkpoint_of_two_processes_resumes_in_one(
    two: dict[str, Result],
    alone: Result,
    sections: Sections,
    train_here: Train,
    tmp_path: Path,
    source: str,
    target: str,
) -> None:
    run_dir = two[source].cut(tmp_path / "run", 1)
    recipe = changed(sections, engine=ENGINES[target])
    assert_same_answer(train_here(recipe, run_dir, resume=True), alone)


@pytest.mark.usefixtures("infinite_loss")
@pytest.mark.parametrize("engine", ["ddp", "zero 0", "zero 2"])
def test_an_infinite_loss_stops_the_run_under_every_engine(
    sections: Sections, train_here: Train, engine: str
) -> None:
    with pytest.raises(Diverged, match="loss is inf in step 0"):
        train_here(changed(sections, engine=ENGINES[engine]))
