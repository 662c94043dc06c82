"""What watches over a run, between two real processes of which one is out of order."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from process_group import start_two
from run_files import rows
from safetensors.torch import load_file
from two_ranks import BROKEN_STEP, SLEEP_S

from ixt.checkpoint.folder import checkpoint_folders
from ixt.recipe import dump_recipe, parse_recipe

pytestmark = pytest.mark.slow

TESTS, SCRIPT = Path(__file__).parents[1], Path(__file__).parents[1] / "support" / "two_ranks.py"


@pytest.fixture(scope="module")
def folder(
    tiny_sections: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Where both ranks wrote; five updates of one micro-batch each, a row per update."""
    folder = tmp_path_factory.mktemp("ranks")
    sections = {
        **tiny_sections,
        "augment": {"image_size": 32},
        "schedule": {"epochs": 1},
        "engine": {"global_batch_size": 256, "micro_batch_size": 128},
        "run": {"log_every_steps": 1, "trackers": [], "on_nonfinite": "skip"},
    }
    (folder / "x.yaml").write_text(dump_recipe(parse_recipe(sections)))
    ranks = start_two(str(SCRIPT), str(folder / "x.yaml"), str(folder), PYTHONPATH=paths())
    told = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(told)
    (folder / "said.txt").write_text(told[0])
    return folder


def paths() -> str:
    return os.pathsep.join((str(TESTS), os.environ.get("PYTHONPATH", "")))


def told(folder: Path, case: str) -> set[str]:
    return {json.loads((folder / f"rank-{rank}.json").read_text())[case] for rank in range(2)}


def test_another_version_on_a_rank_stops_both_with_the_same_line(folder: Path) -> None:
    (line,) = told(folder, "of_another_version")
    host = socket.gethostname()
    assert line.startswith(f"rank 1 on {host} has timm 0.0.1, but rank 0 on {host} has ")
    assert line.endswith("; install the same version on both")


def test_another_recipe_on_a_rank_stops_both_with_the_same_line(folder: Path) -> None:
    (line,) = told(folder, "of_another_recipe")
    host = socket.gethostname()
    assert line == (
        f"rank 1 on {host} has run.seed 43, but rank 0 on {host} has 42; "
        "give all processes the same recipe"
    )


def test_other_data_on_a_rank_stops_both_with_the_same_line(folder: Path) -> None:
    (line,) = told(folder, "of_other_data")
    host = socket.gethostname()
    assert line == (
        f"rank 1 on {host} has different train images from rank 0 on {host}: "
        "1,436 images and 1,437; "
        "class eight first: 140 and 141; give all processes the same data"
    )


def test_a_loss_that_is_infinite_on_one_rank_alone_is_taken_back_on_both(folder: Path) -> None:
    steps = [row for row in rows(folder / "run", "metrics.jsonl") if row["kind"] == "steps"]
    assert [row["nonfinite"] for row in steps] == [int(n == BROKEN_STEP) for n in range(5)]
    (spike,) = rows(folder / "run", "spikes.jsonl")
    assert (spike["step"], spike["taken_back"]) == (BROKEN_STEP + 1, True)
    first, second = (
        load_file(folder / "run" / f"after-rank-{rank}.safetensors") for rank in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    optimizer = load_file(checkpoint_folders(folder / "run")[-1] / "optimizer.safetensors")
    assert {t.item() for name, t in optimizer.items() if name.endswith("/step")} == {4.0}


def test_the_rank_that_dawdles_is_named_once_and_in_every_row(folder: Path) -> None:
    steps = [row for row in rows(folder / "run", "metrics.jsonl") if row["kind"] == "steps"]
    assert [row["slowest_rank"] for row in steps] == [1] * 5
    said = (folder / "said.txt").read_text()
    assert said.count(f"rank 1 on {socket.gethostname()} slows the others down") == 1
    seconds = float(said.split("its forward passes took ")[1].split(" s ")[0])
    assert seconds >= SLEEP_S
