"""Taking an update back leaves no trace under DeepSpeed either."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from ixt.checkpoint.folder import checkpoint_folders
from ixt.recipe import parse_recipe
from ixt.training import loop as training
from ixt.training.loop import train
from ixt.training.state import capture


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_skipped_update_changes_no_weight_or_moment(
    tiny_sections: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: int,
    name: str,
) -> None:
    original, seen = training.train_step, []

    def state(run: Any) -> dict[str, torch.Tensor]:
        run.undo.finish_previous()
        copies = type(run.writer.copies)(True)
        files, _ = capture(run.accelerator, run.model, run.optimizer, run.ema, copies)
        return {f"{f}/{k}": t.clone() for f, named in files.items() for k, t in named.items()}

    def step(run: Any, number: int, *rest: Any) -> Any:
        loss, before = run.loss, state(run) if number in (0, 3) else {}
        if number in (0, 3):
            run.loss = lambda logits, targets: loss(logits, targets) * math.nan
        mean = original(run, number, *rest)
        run.loss = loss
        if before:
            after = state(run)
            kept = [k for k in before if not torch.equal(before[k], after[k])]
            new = [k for k in after.keys() - before.keys() if after[k].any()]
            seen.append((number, kept, new))
        return mean

    monkeypatch.setattr(training, "train_step", step)
    sections = {
        **tiny_sections,
        "augment": {"image_size": 32},
        "optim": {"name": name, "lr": 2e-3, "max_norm": 1.0},
        "schedule": {"epochs": 1},
        "engine": {**tiny_sections["engine"], "kind": "deepspeed", "zero_stage": stage},
        "run": {"trackers": [], "on_nonfinite": "skip"},
    }
    try:
        train(parse_recipe(sections), tmp_path / "run")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert seen == [(0, [], []), (3, [], [])]
    assert checkpoint_folders(tmp_path / "run")
