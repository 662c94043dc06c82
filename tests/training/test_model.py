"""The model of a run: what its recipe cannot mean is one line before training starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ixt.checkpoint.folder import save_checkpoint
from ixt.errors import ModelError, RecipeError
from ixt.recipe import Recipe, parse_recipe
from ixt.training.model import build_model
from ixt.training.resolve import resolve_recipe

CPU = torch.device("cpu")


def recipe_of(size: int, **kwargs: Any) -> Recipe:
    return parse_recipe(
        {
            "model": {"name": "inceptionnext_atto", "kwargs": {"depths": [1, 1, 1, 1], **kwargs}},
            "augment": {"image_size": size, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
            "eval": {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic"},
        }
    )


@pytest.mark.parametrize("size", [1, 2])
def test_images_smaller_than_the_stem_are_one_line(size: int) -> None:
    with pytest.raises(ModelError) as caught:
        build_model(recipe_of(size), 10, CPU, None)
    message = str(caught.value)
    assert message.startswith(f"augment.image_size: is {size}, but inceptionnext_atto does not")
    assert "\n" not in message


def test_trying_a_size_changes_no_bit_of_the_model() -> None:
    tried, not_tried = (build_model(recipe_of(size), 10, CPU, None) for size in (48, 128))
    assert tried.training and not_tried.training
    other = not_tried.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in tried.state_dict().items())


def test_a_null_argument_of_the_model_is_refused_but_for_runs_that_hold_it(tmp_path: Path) -> None:
    recipe = recipe_of(48, act_layer=None)
    with pytest.raises(RecipeError, match=r"model\.kwargs\.act_layer: is null, which timm ignores"):
        resolve_recipe(recipe, tmp_path / "new", resume=False)
    stored = {"step": 1, "recipe": recipe.model_dump(mode="json")}
    save_checkpoint(tmp_path / "old", {"model": {"x": torch.zeros(1)}}, stored)
    resumed = resolve_recipe(recipe, tmp_path / "old", resume=True)
    assert resumed.model.kwargs["act_layer"] is None
