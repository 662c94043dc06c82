"""Batch sizes that a recipe leaves open: chosen by the images, kept by the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_files import rows

from ixt.errors import DataError, RecipeError
from ixt.recipe import Recipe, load_recipe, parse_recipe
from ixt.training.loop import train
from ixt.training.resolve import resolve_recipe

SMALLEST = {"model": {"name": "inceptionnext_atto"}}


def recipe(**engine: Any) -> Recipe:
    return parse_recipe(SMALLEST | {"engine": engine})


def batches(found: Recipe) -> tuple[int, int]:
    return found.engine.global_batch_size, found.engine.micro_batch_size


@pytest.mark.parametrize(
    ("total", "micro"),
    [(4096, 128), (64, 64), (16, 16), (1, 1), (96, 96), (250, 125), (640, 128), (384, 128)],
)
def test_a_micro_batch_that_is_not_given_divides_the_update(total: int, micro: int) -> None:
    assert batches(recipe(global_batch_size=total)) == (total, micro)


def test_an_update_that_only_tiny_micro_batches_divide_is_refused() -> None:
    with pytest.raises(RecipeError, match="is 128 and must divide global_batch_size 131"):
        recipe(global_batch_size=131)


@pytest.mark.parametrize(
    ("num_images", "expected"),
    [(1_281_167, 4096), (4096, 4096), (4095, 256), (1437, 128), (161, 16), (20, 16), (3, 2)],
)
def test_an_update_that_is_not_given_fits_the_set(num_images: int, expected: int) -> None:
    found = recipe().with_batches(num_images, 1)
    assert batches(found) == (expected, min(expected, 128))


def test_what_is_given_stays() -> None:
    assert batches(recipe(global_batch_size=2048).with_batches(100, 1)) == (2048, 128)
    assert batches(recipe(micro_batch_size=32).with_batches(1000, 1)) == (64, 32)
    assert batches(recipe(micro_batch_size=8).with_batches(10_000, 1)) == (4096, 8)


def test_processes_share_an_update_whose_micro_batch_is_open() -> None:
    assert recipe(global_batch_size=64).num_shares == 64
    assert batches(recipe(global_batch_size=64).with_batches(1000, 4)) == (64, 16)
    mixing = parse_recipe(
        SMALLEST | {"engine": {"global_batch_size": 64}, "augment": {"mixup_alpha": 0.2}}
    )
    assert mixing.num_shares == 1  # which images are mixed must not depend on the processes
    assert batches(mixing.with_batches(1000, 4)) == (64, 64)


def test_a_recipe_of_a_model_and_a_folder_trains_and_resumes_with_its_batches(
    digits: Path, tmp_path: Path
) -> None:
    tiny = {"depths": [1, 1, 1, 1], "dims": [16, 16, 32, 32]}
    file, run = tmp_path / "smallest.yaml", tmp_path / "run"
    file.write_text(
        f"model: {{name: inceptionnext_atto, kwargs: {json.dumps(tiny)}}}\n"
        f"data: {{root: {json.dumps(str(digits))}}}\n"
    )
    # Only what makes the test short.
    short = ["schedule.epochs=1", "augment.image_size=32", "run.trackers=[]"]
    train(load_recipe(file, short), run)
    steps = [row["step"] for row in rows(run) if row["kind"] == "steps"]
    assert steps == [11]  # one row per epoch at least, though log_every_steps is 50
    assert batches(load_recipe(run / "recipe.yaml")) == (128, 128)
    again = resolve_recipe(load_recipe(file, short), run, resume=True)
    assert batches(again) == (128, 128)


def test_a_set_that_is_smaller_than_a_given_update_says_what_to_set(
    tiny: Recipe, tmp_path: Path
) -> None:
    text = r"make that smaller, e\.g\. --set engine\.global_batch_size=128 --set engine\.micro_"
    with pytest.raises(DataError, match=text):
        train(tiny.with_(engine={"global_batch_size": 4096}), tmp_path / "run")
