"""A run trains, evaluates and resumes with the replaced layers as with timm's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ixt.checkpoint.weights import read_weights
from ixt.evaluate.candidates import Source
from ixt.evaluate.evaluation import Settings, run_evaluation
from ixt.recipe import Recipe
from ixt.training.loop import train


def changed(recipe: Recipe, fused: bool, half: bool) -> Recipe:
    return recipe.with_(
        model={"fused": fused},
        engine={
            "precision": "bf16" if half else "fp32",
            "half_residual": half,
            "channels_last": True,  # else blocks are not folded
        },
        schedule={"epochs": 1, "warmup_epochs": 0},
    )


@pytest.mark.slow
def test_a_fused_run_is_a_plain_run_but_for_rounding(tiny: Recipe, tmp_path: Path) -> None:
    states = []
    for fused in (False, True):
        folder = tmp_path / str(fused)
        folder.mkdir()
        train(changed(tiny, fused, half=False), folder)
        states.append(read_weights(folder).state)
    assert list(states[0]) == list(states[1])
    for key, expected in states[0].items():
        torch.testing.assert_close(states[1][key], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_eval_of_a_half_precision_run_repeats_its_own_number(tiny: Recipe, tmp_path: Path) -> None:
    metrics = train(changed(tiny, fused=True, half=True), tmp_path)
    assert tiny.data.root is not None
    results = (
        run_evaluation([Source(tmp_path, prefer_ema=False)], str(tiny.data.root), Settings())
        .measurements[0]
        .numbers()
    )
    assert results["top1"] == metrics["top1"]
