"""What the tests of engines share: a run's results, and two processes to train in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from process_group import free_port, rank_environment
from safetensors.torch import load_file
from torch import Tensor

from ixt.checkpoint.folder import checkpoint_folders

Train = Callable[..., "Result"]
TrainTogether = Callable[..., dict[str, "Result"]]

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "zero 0": {"kind": "deepspeed", "zero_stage": 0},
    "zero 1": {"kind": "deepspeed", "zero_stage": 1},
    "zero 2": {"kind": "deepspeed", "zero_stage": 2},
    "zero 3": {"kind": "deepspeed", "zero_stage": 3},
}

# Gradients are summed in another order, so the last bits differ. Weights are compared under SGD
# only: Adam turns the rounding noise of a gradient that is truly zero (a bias in front of batch
# norm) into whole steps.
LOSS = 5e-6
WEIGHT = 1e-6

WORKER = Path(__file__).with_name("engine_worker.py")


@dataclass(frozen=True)
class Result:
    """What a run left in its folder."""

    run_dir: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        lines = (self.run_dir / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def losses(self) -> list[float]:
        """One per update, averaged over the processes."""
        return [row["loss"] for row in self.rows if row["kind"] == "steps"]

    @property
    def metrics(self) -> dict[str, float]:
        """The last evaluation's."""
        return self.rows[-1]

    @property
    def collectives(self) -> dict[str, int]:
        """How often the processes called each collective in one update."""
        counts: dict[str, int] = json.loads((self.run_dir / "collectives.json").read_text())
        return counts

    @property
    def seen(self) -> dict[str, Any]:
        """What the stand-in for CUDA graphs saw, see `no_gpu.Seen`."""
        found: dict[str, Any] = json.loads((self.run_dir / "seen.json").read_text())
        return found

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Of the newest checkpoint."""
        found: dict[str, Tensor] = load_file(
            checkpoint_folders(self.run_dir)[-1] / f"{name}.safetensors"
        )
        return found

    def cut(self, folder: Path, num_checkpoints: int) -> Path:
        """A copy of the run that was killed after so many checkpoints."""
        shutil.copytree(self.run_dir, folder)
        for checkpoint in checkpoint_folders(folder)[num_checkpoints:]:
            shutil.rmtree(checkpoint)
        return folder


def weights(result: Result, name: str = "model") -> dict[str, Tensor]:
    """Without batch-norm statistics: each process keeps those of its own images."""
    named = result.tensors(name)
    return {key: t for key, t in named.items() if "running" not in key and "num_batches" not in key}


def farthest(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """The largest difference of an element."""
    assert left.keys() == right.keys()
    return max((left[name].double() - right[name].double()).abs().max().item() for name in left)


def assert_same_answer(result: Result, reference: Result) -> None:
    """The same losses, weights and averages, up to rounding."""
    assert len(reference.losses) >= 10
    assert result.losses == pytest.approx(reference.losses, abs=LOSS)
    for name in ("model", "ema"):
        assert farthest(weights(result, name), weights(reference, name)) < WEIGHT


def assert_same_bits(result: Result, reference: Result) -> None:
    """Every tensor of the newest checkpoint is equal."""
    for name in ("model", "ema", "optimizer", "ranks"):
        assert farthest(result.tensors(name), reference.tensors(name)) == 0.0


def start(folder: Path, rank: int) -> subprocess.Popen[bytes]:
    with (folder / f"rank-{rank}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(WORKER), str(folder / "jobs.json")],
            # Each job brings its own port.
            env={**rank_environment(rank, 2, free_port()), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
