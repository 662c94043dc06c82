"""Two real processes write one report, of the images that one process finds in their checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ixt.recipe import dump_recipe, parse_recipe
from ixt.runs.report.evaluation import EVALUATION, Evaluation
from ixt.runs.report.first_batch import FIRST_BATCH, FirstBatch
from ixt.runs.report.pictures import from_data_uri
from ixt.tools.show.from_loaders import take_samples

pytestmark = pytest.mark.slow


def test_two_processes_count_every_image_once_and_keep_the_first_batch_of_the_plan(
    tiny_sections: dict[str, dict[str, Any]], tmp_path: Path, ixt_status: Callable[..., int]
) -> None:
    changes = {
        "data": {**tiny_sections["data"], "shots": 16},
        "engine": {"global_batch_size": 64, "micro_batch_size": 32},
        "run": {"log_every_steps": 1, "trackers": []},
    }
    recipe = parse_recipe(tiny_sections | changes)
    (tmp_path / "x.yaml").write_text(dump_recipe(recipe))
    command = ["train", "x.yaml", "--run-dir", "run", "--num-processes", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "ixt", *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and "report.html" not in done.stderr, done.stderr
    run = tmp_path / "run"
    found = Evaluation.model_validate_json((run / EVALUATION).read_text())
    results = tmp_path / "alone.json"
    assert ixt_status("eval", run, "--data", recipe.data.root, "--results", results) == 0
    alone = json.loads(results.read_text())
    assert (found.count, found.top1, found.top5) == (360, alone["top1"], alone["top5"])
    assert found.calibration_error == pytest.approx(alone["calibration_error"], abs=1e-9)
    names = found.class_names
    pairs = [
        {"label": names[actual], "prediction": names[prediction], "images": images}
        for actual, prediction, images in found.confusions
    ]
    assert pairs[:20] == alone["most_confused"]
    batch = FirstBatch.model_validate_json((run / FIRST_BATCH).read_text())
    samples = take_samples(str(recipe.data.root), "train", recipe, 0, 0, 16, "torch")
    pictures = [from_data_uri(image.picture).tobytes() for image in batch.images]
    assert pictures == [sample.pixels.tobytes() for sample in samples]
