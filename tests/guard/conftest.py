"""Lets the tests import their helper modules; each begins with a process that has done nothing."""

import sys
from pathlib import Path

import pytest

from ixt.guard import progress

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def fresh_progress() -> None:
    """What a test before has left a process doing."""
    progress.restart()
