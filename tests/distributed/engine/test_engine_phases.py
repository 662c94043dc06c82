"""A curriculum under every engine: what one process does, also where it is stopped on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_runs import (
    ENGINES,
    Result,
    Train,
    TrainTogether,
    assert_same_answer,
    assert_same_bits,
)
from sections import Sections, changed

pytestmark = pytest.mark.slow

SMALLER: dict[str, Any] = {"augment.image_size": 32, "model.drop_path_rate": 0.1}
STOPS = {"within the first phase": 1, "between phases": 2, "within the second phase": 3}
"""Checkpoints that there are, one each 5 updates of 20."""


@pytest.fixture(scope="module")
def phased(sections: Sections) -> Sections:
    """The first of two epochs with smaller images and less drop path."""
    own = changed(
        sections,
        augment={"image_size": 48},
        engine={"micro_batch_size": 8},
        run={"checkpoint_every_steps": 5, "keep_last": 4},
    )
    return own | {"curriculum": {"phases": [{"until": 1, "settings": SMALLER}]}}


@pytest.fixture(scope="module")
def engines(phased: Sections) -> dict[str, Sections]:
    """The recipe under each engine, and under DDP with another micro-batch in each phase."""
    named = {name: changed(phased, engine=engine) for name, engine in ENGINES.items()}
    settings = SMALLER | {"engine.micro_batch_size": 16}
    phases = {"phases": [{"until": 1, "settings": settings}]}
    return named | {"ddp, own micro-batches": phased | {"curriculum": phases}}


@pytest.fixture(scope="module")
def alone(phased: Sections, train_here: Train) -> Result:
    return train_here(phased)


def ledger(result: Result) -> bytes:
    return (result.run_dir / "ledger.jsonl").read_bytes()


@pytest.mark.parametrize("engine", ENGINES)
def test_one_process_continues_phases_bit_for_bit_under_any_engine(
    alone: Result, engines: dict[str, Sections], train_here: Train, tmp_path: Path, engine: str
) -> None:
    unbroken = train_here(engines[engine])
    assert_same_answer(unbroken, alone)
    assert ledger(unbroken) == ledger(alone)
    for stop, num_checkpoints in STOPS.items():
        run_dir = unbroken.cut(tmp_path / stop, num_checkpoints)
        resumed = train_here(engines[engine], run_dir, resume=True)
        assert_same_bits(resumed, unbroken)
        assert ledger(resumed) == ledger(alone)


def test_two_processes_do_what_one_does_and_continue_phases_bit_for_bit(
    alone: Result, engines: dict[str, Sections], train_together: TrainTogether, tmp_path: Path
) -> None:
    unbroken = train_together(engines)
    for name, result in unbroken.items():
        assert ledger(result) == ledger(alone)
        if "own" not in name:  # batch norm sees a micro-batch
            assert_same_answer(result, alone)
    ways = [(engine, stop) for engine in engines for stop in STOPS]
    resumed = train_together(
        {f"{engine}, {stop}": engines[engine] for engine, stop in ways},
        resumed={
            f"{engine}, {stop}": unbroken[engine].cut(tmp_path / engine / stop, STOPS[stop])
            for engine, stop in ways
        },
    )
    for engine, stop in ways:
        result = resumed[f"{engine}, {stop}"]
        assert_same_bits(result, unbroken[engine])
        assert ledger(result) == ledger(alone)
