"""A small run whose damage is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ixt.recipe import parse_recipe
from ixt.training.loop import train


@pytest.fixture(scope="module")
def trained(
    tiny_sections: dict[str, dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of five updates, saved after the third and the fifth."""
    run = tmp_path_factory.mktemp("runs") / "run"
    changes = {
        "data": {**tiny_sections["data"], "shots": 32},
        "engine": {"global_batch_size": 64, "micro_batch_size": 32},
        "schedule": {"epochs": 1, "unit": "update"},
        "run": {"log_every_steps": 1, "trackers": [], "checkpoint_every_steps": 3},
    }
    train(parse_recipe(tiny_sections | changes), run)
    return run
