"""One of two processes whose rank 1 is out of order, in one way after another.

`two_ranks.py recipe.yaml folder` writes what each rank was told into folder/rank-N.json, and the
run of the last case, which goes through to its end, into folder/run.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from process_group import free_port
from safetensors.torch import save_file

from ixt.distributed import rank_comparison
from ixt.distributed.machine import package_version
from ixt.errors import EngineError
from ixt.recipe import Recipe, load_recipe
from ixt.training import loop as training
from ixt.training.loop import train

RANK = int(os.environ.get("RANK", "0"))
SLEEP_S = 0.3
BROKEN_STEP = 2


def refused(recipe: Recipe, run_dir: Path) -> str:
    """The error that ends a run before its first update."""
    try:
        train(recipe, run_dir)
    except EngineError as error:
        return str(error)
    finally:
        dist.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
    return "not refused"


def of_another_version(recipe: Recipe, run_dir: Path) -> str:
    """Rank 1 has a timm of its own."""

    def version(name: str) -> str | None:
        return "0.0.1" if name == "timm" else package_version(name)

    with pytest.MonkeyPatch.context() as patch:
        if RANK == 1:
            patch.setattr(rank_comparison, "package_version", version)
        return refused(recipe, run_dir)


def of_another_recipe(recipe: Recipe, run_dir: Path) -> str:
    """Rank 1 has a seed of its own."""
    return refused(recipe.with_(run={"seed": recipe.run.seed + RANK}), run_dir)


def of_other_data(recipe: Recipe, run_dir: Path) -> str:
    """Rank 1 has a copy of the data without one image, at a place of its own."""
    assert recipe.data.root is not None
    own = run_dir.with_name(f"data-{RANK}")
    shutil.copytree(recipe.data.root, own, ignore=shutil.ignore_patterns(".ixt"))
    if RANK == 1:
        next((own / "train" / "eight").iterdir()).unlink()
    return refused(recipe.with_(data={"root": str(own)}), run_dir)


def slow_and_broken(recipe: Recipe, run_dir: Path) -> None:
    """Rank 1 dawdles in every forward pass, and its loss is infinite in one update.

    The gradient is not: what the other one computes and receives is finite, so it must be told.
    """
    original = training.train_step

    def step(run: Any, number: int, *rest: Any) -> Any:
        loss: Callable[..., torch.Tensor] = run.loss

        def other(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            time.sleep(SLEEP_S)
            return loss(logits, targets) + (math.inf if number == BROKEN_STEP else 0.0)

        run.loss = other if RANK == 1 else loss
        mean = original(run, number, *rest)
        run.loss = loss
        if number == BROKEN_STEP:
            named = {name: t.detach().clone() for name, t in run.model.named_parameters()}
            save_file(named, run_dir / f"after-rank-{RANK}.safetensors")
        return mean

    training.train_step = step  # type: ignore[assignment]
    train(recipe, run_dir)


def main() -> None:
    recipe, folder = load_recipe(Path(sys.argv[1])), Path(sys.argv[2])
    told = {}
    cases: tuple[Callable[[Recipe, Path], str], ...] = (
        of_another_version,
        of_another_recipe,
        of_other_data,
    )
    for case in cases:
        told[case.__name__] = case(recipe, folder / case.__name__)
        os.environ["MASTER_PORT"] = agreed_port(folder / f"port-after-{case.__name__}")
    (folder / f"rank-{RANK}.json").write_text(json.dumps(told))
    slow_and_broken(recipe, folder / "run")


def agreed_port(file: Path) -> str:
    """A port that rank 0 finds and rank 1 reads: a group's own is still held after it ended."""
    if RANK == 0:
        new = file.with_suffix(".new")
        new.write_text(str(free_port()))
        new.rename(file)
    while not file.exists():
        time.sleep(0.01)
    return file.read_text()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
