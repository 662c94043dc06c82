"""How long a checkpoint keeps training waiting, written at once and written meanwhile.

    python tests/benchmarks/checkpoint_stall.py --folder /disk/to/write/on

Trains inceptionnext_tiny (28 million weights) with AdamW and an EMA on random images, in rounds of
equally many updates: without a checkpoint, with one written at once, with one written meanwhile,
and prints the fastest of the rounds, since other work on the machine only adds. "Held up" is the
time in which the training thread does nothing else; "round" also has what the writing thread takes
from the updates.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ixt.checkpoint.folder import save_checkpoint, sweep
from ixt.checkpoint.writer import CheckpointWriter
from ixt.models import create_model
from ixt.training import state
from ixt.training.ema import Ema


@dataclass
class Trainer:
    """A training run without data."""

    update: Callable[[], None]
    save: Callable[[Path, int, CheckpointWriter], None]


def build(device: torch.device, batch_size: int, image_size: int) -> Trainer:
    accelerator = Accelerator(cpu=device.type == "cpu")
    model = create_model("inceptionnext_tiny", num_classes=1000).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ema = Ema(model)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    labels = torch.arange(batch_size, device=device)

    def update() -> None:
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(0.9999)

    def save(run_dir: Path, step: int, writer: CheckpointWriter) -> None:
        writer.wait()
        tensors, scalars = state.capture(accelerator, model, optimizer, ema, writer.copies)
        writer.start(partial(write, run_dir, tensors, {"step": step, **scalars}, writer))

    return Trainer(update, save)


def write(
    run_dir: Path,
    tensors: dict[str, state.Named],
    content: dict[str, Any],
    writer: CheckpointWriter,
) -> None:
    writer.copies.wait()
    save_checkpoint(run_dir, tensors, content)
    sweep(run_dir, content["step"], keep_last=1, keep_best=0)


def train_round(
    trainer: Trainer, updates: int, run_dir: Path, step: int, writer: CheckpointWriter | None
) -> tuple[float, float]:
    """Save (or not), then train; return seconds held up and seconds in all."""
    synchronize()
    start_s = time.perf_counter()
    if writer is not None:
        trainer.save(run_dir, step, writer)
    held_up_s = time.perf_counter() - start_s
    for _ in range(updates):
        trainer.update()
    synchronize()
    return held_up_s, time.perf_counter() - start_s


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="where to write; a temporary folder if not given"
    )
    parser.add_argument("--updates", type=int, default=20, help="updates per checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=64)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = build(device, options.batch_size, options.image_size)
    writers = {
        "no checkpoint": None,
        "written at once": CheckpointWriter(background=False, wanted=True),
        "written meanwhile": CheckpointWriter(background=True, wanted=True),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in writers}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for number in range(options.rounds + 1):
            for name, writer in writers.items():
                step = 1 + number
                measured = train_round(trainer, options.updates, Path(folder), step, writer)
                if writer is not None:
                    writer.wait()
                if number:  # the first round takes memory and warms up
                    times[name].append(measured)
        newest = max((Path(folder) / "checkpoints").iterdir())
        size_mb = sum(file.stat().st_size for file in newest.iterdir()) / 1e6
    plain_s = min(total for _, total in times["no checkpoint"])
    update_ms = 1e3 * plain_s / options.updates
    print(f"{device}, {torch.get_num_threads()} threads; a checkpoint has {size_mb:.0f} MB")
    print(f"an update takes {update_ms:.0f} ms; {options.updates} per checkpoint")
    for name, rounds in times.items():
        held_up_s = min(held for held, _ in rounds)
        round_s = min(total for _, total in rounds)
        print(
            f"{name:18} held up {1e3 * held_up_s:7.0f} ms ({held_up_s / plain_s:6.1%} of a round)"
            f"   round {round_s:6.2f} s ({round_s / plain_s - 1:+6.1%})"
        )


if __name__ == "__main__":
    main()
