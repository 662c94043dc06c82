"""Write the checkpoint that later versions must be able to read.

    python tests/checkpoint/formats/write.py tests/checkpoint/formats/1

Run once per format, by the first version that writes it, and committed. It trains one epoch of
five updates in peace and notes its losses and its ledger, then does it again, stops after the
second update, and keeps that checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ixt.checkpoint.folder import checkpoint_folders
from ixt.errors import Interrupted
from ixt.recipe import Recipe, parse_recipe
from ixt.tools.demo import write_demo
from ixt.training import loop as training

STOP_AT = 2


def sections(root: str) -> dict[str, dict[str, Any]]:
    """A recipe whose model has 1,300 weights, with batch norm, EMA and AdamW."""
    model_kwargs = {"depths": [1, 1], "dims": [8, 8], "mlp_ratios": [1, 1]}
    return {
        "model": {"name": "inceptionnext_atto", "drop_path_rate": 0.1, "kwargs": model_kwargs},
        "data": {"root": root, "num_threads": 1, "decoder": "torch"},
        "augment": {"image_size": 32, "mixup_alpha": 0.8, "cutmix_alpha": 1.0},
        "optim": {"lr": 2e-2, "label_smoothing": 0.1},
        "schedule": {"epochs": 1, "unit": "update"},
        "ema": {"decay": 0.9},
        "engine": {"global_batch_size": 256, "micro_batch_size": 64},
        "eval": {"batch_size": 120, "crop_pct": 1.0},
        "run": {"log_every_steps": 1, "trackers": []},
    }


def train_and_stop(recipe: Recipe, run_dir: Path) -> None:
    """Train to STOP_AT, as if SIGTERM had come."""
    step = training.train_step

    def stopping(run: Any, number: int, *rest: Any) -> Any:
        loss = step(run, number, *rest)
        if number + 1 == STOP_AT:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    training.train_step = stopping  # type: ignore[assignment]
    try:
        training.train(recipe, run_dir)
    except Interrupted:
        return
    finally:
        training.train_step = step
    raise AssertionError("it was not stopped")


def read_rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def main(target: Path) -> None:
    # What the writing machine was is of no interest, and would name its folders.
    nothing = patch("ixt.training.saving.describe_machine", dict)
    with nothing, tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        write_demo("digits", image_size=32)
        recipe = parse_recipe(sections("digits"))
        training.train(recipe, Path("whole"))
        train_and_stop(recipe, Path("part"))
        target.mkdir(parents=True)
        shutil.copytree("part/checkpoints", target / "checkpoints")
        shutil.copy("part/recipe.yaml", target)
        metrics = read_rows("whole/metrics.jsonl")
        ledger = read_rows("whole/ledger.jsonl")
        expected = {
            "losses": [row["loss"] for row in metrics if row["kind"] == "steps"],
            "evaluation": {k: v for k, v in metrics[-1].items() if "loss" in k},
            "samples": [row["samples"] for row in ledger],
        }
        (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
        assert len(checkpoint_folders(target)) == 1


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
