"""What the trainer's loop adds to a bare PyTorch loop: `python tests/benchmarks/loop_overhead.py`.

Both take the same batches from memory and update equal models with equal optimizers; they take
turns, an update each. The loop under test is `train_step` with Accelerate, seeds, clipping and EMA,
and what `train_epoch` does after each update. The bare one does forward, backward, clipping,
optimizer and the same average. Also timed: from the start of a process to its first update's end.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

from ixt.pipeline.loader import Batch
from ixt.recipe import Recipe, dump_recipe, parse_recipe
from ixt.tools.demo import write_demo
from ixt.training import loop as training
from ixt.training.ema import Ema
from ixt.training.model import probe_model
from ixt.training.optimizer import build_loss, build_optimizer, set_learning_rate
from ixt.training.run import Run, open_run
from ixt.training.watch import watched

WARMUP = 5


def recipe_for(root: Path, batch_size: int, skip: bool) -> Recipe:
    return parse_recipe(
        {
            "model": {"name": "inceptionnext_atto", "num_classes": 10},
            "data": {"root": str(root)},
            "augment": {"image_size": 32},
            "optim": {"max_norm": 1.0},
            "schedule": {"epochs": 1},
            "ema": {"decay": 0.9},
            "engine": {"global_batch_size": batch_size, "micro_batch_size": batch_size},
            "run": {"trackers": [], "on_nonfinite": "skip" if skip else "stop"},
        }
    )


def ours(run: Run, batch: Batch, stack: ExitStack) -> Callable[[int], None]:
    stack.enter_context(watched(run, training.micro_step))
    run.wrapped.train()

    def update(step: int) -> None:
        set_learning_rate(run.optimizer, run.learning_rate(step % 10))
        loss = training.train_step(run, step, repeat(batch))
        run.observers.update_done(step + 1, loss)

    return update


def bare(recipe: Recipe, batch: Batch, device: torch.device) -> Callable[[int], None]:
    model = probe_model(recipe).to(device).train()
    optimizer, loss_of = build_optimizer(model, recipe.optim), build_loss(recipe.optim)
    ema = Ema(model)

    def update(step: int) -> None:
        loss = loss_of(model(batch.images), batch.targets)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(0.9)

    return update


def measure(updates: dict[str, Callable[[int], None]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each update, in turns."""
    times: dict[str, list[float]] = {name: [] for name in updates}
    for step in range(WARMUP + rounds):
        for name, update in updates.items():
            start_s = time.perf_counter()
            update(step)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if step >= WARMUP:
                times[name].append(1000 * (time.perf_counter() - start_s))
    return times


def first_step_s(recipe: Recipe, folder: Path) -> float:
    """From the start of `ixt train` to its first log row, with its data on the disk."""
    (folder / "x.yaml").write_text(dump_recipe(recipe))
    command = [sys.executable, "-m", "ixt", "train", str(folder / "x.yaml")]
    command += ["--run-dir", str(folder / "first"), "--set", "run.log_every_steps=1"]
    start_s = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "step 1/" in line:
            elapsed_s = time.perf_counter() - start_s
            process.terminate()
            process.communicate()
            return elapsed_s
    raise SystemExit("the run ended without a step")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = write_demo(folder / "digits", image_size=32).root
        recipe = recipe_for(root, given.batch_size, skip=False)
        run: Any = open_run(recipe, folder)
        guarded: Any = open_run(recipe_for(root, given.batch_size, skip=True), folder)
        batch = next(run.train_loader.epoch(0))
        with ExitStack() as stack:
            updates = {
                "bare loop": bare(recipe, batch, run.accelerator.device),
                "ixt": ours(run, batch, stack),
                "ixt, on_nonfinite: skip": ours(guarded, batch, stack),
            }
            times = measure(updates, given.rounds)
        base = statistics.median(times["bare loop"])
        for label, values in times.items():
            median = statistics.median(values)
            print(f"{label}: {median:.2f} ms per update ({median / base - 1:+.1%})")
        print(f"first step after {first_step_s(recipe, folder):.1f} s")


if __name__ == "__main__":
    main()
