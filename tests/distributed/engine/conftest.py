"""Runs of real engines: in this process, and in two processes that take many runs one by one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from engine_runs import Result, Train, TrainTogether, start
from process_group import free_port
from sections import Sections

from ixt.recipe import parse_recipe
from ixt.training.loop import train


@pytest.fixture(scope="session")
def few_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """320 training and 70 test images: 20 updates of 32 images in 2 epochs."""
    root = tmp_path_factory.mktemp("few")
    for split, count in (("train", 32), ("val", 7)):
        for folder in sorted((digits / split).iterdir()):
            (root / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:count]:
                shutil.copy(file, root / split / folder.name)
    return root


@pytest.fixture(scope="session")
def sections(few_digits: Path) -> Sections:
    """20 updates of 2 micro-batches: drop path, mixing, layer decay, clipping, EMA all on."""
    return {
        "model": {
            "name": "inceptionnext_atto",
            "drop_path_rate": 0.2,
            "kwargs": {"depths": [1, 1, 1, 1], "dims": [16, 16, 32, 32]},
        },
        "data": {"root": str(few_digits), "num_threads": 1},
        "augment": {
            "image_size": 32,
            "mixup_alpha": 0.8,
            "cutmix_alpha": 1.0,
            "mixing_group": 8,
        },
        "optim": {"name": "sgd", "lr": 2e-2, "layer_decay": 0.8, "max_norm": 1.0},
        "schedule": {"epochs": 2, "warmup_epochs": 1, "unit": "update"},
        "ema": {"decay": 0.9},
        "engine": {"global_batch_size": 32, "micro_batch_size": 16},
        "eval": {"batch_size": 24, "crop_pct": 1.0},  # 3 batches: one process has fewer
        "run": {"log_every_steps": 1, "trackers": []},
    }


@pytest.fixture(scope="module")
def train_here(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train in this process."""

    def run(sections: Sections, run_dir: Path | None = None, resume: bool = False) -> Result:
        folder = run_dir or tmp_path_factory.mktemp("here") / "run"
        torch.set_num_threads(1)
        try:
            train(parse_recipe(sections), folder, resume)
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
        return Result(folder)

    return run


@pytest.fixture(scope="module")
def train_together(tmp_path_factory: pytest.TempPathFactory) -> TrainTogether:
    """Train in two processes that meet over gloo; start them once for all runs."""

    def run(
        jobs: Mapping[str, Sections], resumed: Mapping[str, Path] = {}, count: Collection[str] = ()
    ) -> dict[str, Result]:
        folder = tmp_path_factory.mktemp("together")
        listed: list[dict[str, Any]] = [
            {
                "recipe": sections,
                "run_dir": str(resumed.get(name, folder / name)),
                "resume": name in resumed,
                "count": name in count,
                "port": free_port(),
            }
            for name, sections in jobs.items()
        ]
        (folder / "jobs.json").write_text(json.dumps(listed))
        processes = [start(folder, rank) for rank in range(2)]
        for process in processes:
            process.wait(timeout=1200)
        logs = [(folder / f"rank-{rank}.log").read_text() for rank in range(2)]
        assert [process.returncode for process in processes] == [0, 0], "\n".join(logs)
        return {name: Result(Path(job["run_dir"])) for name, job in zip(jobs, listed, strict=True)}

    return run
