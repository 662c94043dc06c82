"""Runs that were never trained, with weights that leave no layer without effect."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import FAMILIES, MACHINE, NAMES, SIZE, SaveRun, stirred

from ixt.checkpoint.folder import save_checkpoint
from ixt.models import create_model
from ixt.recipe import parse_recipe


@pytest.fixture
def save_run(tmp_path: Path, digits: Path) -> SaveRun:
    """Write a run folder with one checkpoint; its EMA weights are the raw ones halved."""

    def save(
        name: str = "inceptionnext_atto",
        *,
        ema: bool = True,
        root: Path = digits,
        loss: str = "cross_entropy",
        **more: object,
    ) -> Path:
        recipe = parse_recipe(
            {
                "model": {"name": name, "kwargs": FAMILIES[name]},
                "data": {"root": str(root)},
                "augment": {"image_size": SIZE, "mean": [0.4, 0.5, 0.6]},
                "optim": {"loss": loss},
                "eval": {"crop_pct": 0.9, "interpolation": "bilinear"},
                "engine": {"global_batch_size": 256, "micro_batch_size": 64},
            }
        )
        weights = stirred(create_model(name, num_classes=10, **FAMILIES[name])).state_dict()
        averages = {k: v / 2 for k, v in weights.items() if v.is_floating_point()}
        state = {
            "step": 10,
            "epoch": 2,
            "recipe": recipe.model_dump(mode="json"),
            "class_names": list(NAMES),
            "metrics": {"top1": 50.0, "ema_top1": 61.5, "ema_top5": 93.25, "ema_count": 360},
            "machine": MACHINE,
            **more,
        }
        run = tmp_path / "run"
        save_checkpoint(run, {"model": weights, "ema": averages if ema else {}}, state)
        return run

    return save
