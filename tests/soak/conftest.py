from __future__ import annotations

from pathlib import Path

import pytest
from soak import soak_recipe

from ixt.training.loop import train


@pytest.fixture(scope="session")
def unbroken(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the soak recipe that nobody disturbed."""
    run_dir = tmp_path_factory.mktemp("soak") / "unbroken"
    train(soak_recipe(digits), run_dir)
    return run_dir
