from __future__ import annotations

from pathlib import Path

import pytest

from ixt.bench.results import Cell
from ixt.bench.roofline.limits import shares
from ixt.errors import EngineError

CELL = Cell(
    model="inceptionnext_tiny",
    mode="train",
    layout="contiguous",
    precision="tf32",
    compile=False,
    batch_size=128,
    image_size=224,
)


def test_the_papers_rate_is_19_percent_of_its_a100() -> None:
    found = shares(CELL, "a100", 901.0)
    assert found["of_limit"] == pytest.approx(0.192, abs=3e-3)
    assert found["mfu"] == pytest.approx(0.145, abs=3e-3)
    assert found["of_memory_floor"] == pytest.approx(901 / 6335, abs=5e-3)


def test_a_device_without_known_peaks_has_no_shares() -> None:
    assert shares(CELL, "cpu", 1.0) == {}
    on_a_v100 = CELL.model_copy(update={"precision": "bf16"})
    assert shares(on_a_v100, "v100", 1.0) == {}


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"mine\.yaml"):
        shares(CELL, str(tmp_path / "mine.yaml"), 1.0)
