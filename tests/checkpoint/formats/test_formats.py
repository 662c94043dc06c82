"""Checkpoints of every format that was ever written are read, and go on to the same numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ixt.checkpoint.state_json import FORMAT
from ixt.recipe import load_recipe
from ixt.training.loop import train

FOLDER = Path(__file__).parent
FORMATS = sorted(path for path in FOLDER.iterdir() if path.name.isdigit())
# For another JPEG encoder and another order of sums. Without the state of the optimizer the losses
# would be off by 0.014.
TOLERANCE = 1e-3


def test_the_present_format_has_a_checkpoint_here() -> None:
    assert [int(path.name) for path in FORMATS] == list(range(1, FORMAT + 1))


@pytest.mark.parametrize("folder", FORMATS, ids=lambda path: path.name)
def test_an_old_checkpoint_resumes_to_the_numbers_of_its_time(
    folder: Path, digits: Path, tmp_path: Path
) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    recipe = load_recipe(run / "recipe.yaml", [f"data.root={json.dumps(str(digits))}"])
    metrics = train(recipe, run, resume=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "steps"]
    ledger = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    assert losses == pytest.approx(expected["losses"][2:], abs=TOLERANCE)
    for name, loss in expected["evaluation"].items():
        assert metrics[name] == pytest.approx(loss, abs=TOLERANCE)
    assert [row["samples"] for row in ledger] == expected["samples"][2:]
