from __future__ import annotations

from collections.abc import Iterator

import pytest
from math_settings import math_settings_restored


@pytest.fixture
def math_settings() -> Iterator[None]:
    """The precision switches that a test sets are as before after it."""
    with math_settings_restored():
        yield
