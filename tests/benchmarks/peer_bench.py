"""Our figures beside those of a plain loop over timm's public API, in one process, in turn.

    python tests/benchmarks/peer_bench.py [MODEL ...]

The loop does what timm's benchmark script does for inference: model in evaluation mode, random
images, forward passes under inference mode, the same warm-up and windows. Both must agree within
3 %. In training our step also clips gradients and averages weights, as a run does; the ratio shows
what these two cost.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from torch import nn

from ixt.bench.results import Cell, Mode, Protocol
from ixt.bench.steps import build_workload
from ixt.bench.timing import time_step
from ixt.models import create_model, eval_settings

ROUNDS, BATCH = 5, 8
PROTOCOL = Protocol(seconds=3.0, windows=5, agreement=0.02)
CPU = torch.device("cpu")
Step = Callable[[], object]


def ours(name: str, mode: Mode) -> Step:
    size = eval_settings(name).image_size
    cell = Cell(
        model=name,
        mode=mode,
        layout="channels_last",
        precision="fp32",
        compile=False,
        batch_size=BATCH,
        image_size=size,
    )
    return build_workload(cell, create_model(name), CPU).step


def peer(name: str, mode: Mode) -> Step:
    size = eval_settings(name).image_size
    model: nn.Module = timm.create_model(name).to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (BATCH,))
    if mode == "infer":
        model.eval()

        @torch.inference_mode()
        def infer() -> object:
            return model(images)

        return infer
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def train() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(images), labels))
        optimizer.step()

    return train


def main() -> None:
    for name in sys.argv[1:] or ["inception_next_atto", "resnet18"]:
        for mode in ("infer", "train"):
            steps = {"ixt": ours(name, mode), "timm": peer(name, mode)}
            rates: dict[str, list[float]] = {who: [] for who in steps}
            for _ in range(ROUNDS):
                for who, step in steps.items():
                    timed = time_step(step, PROTOCOL, CPU)
                    rates[who].append(BATCH / statistics.median(timed.seconds_per_step))
            found = {who: statistics.median(measured) for who, measured in rates.items()}
            print(
                f"{name} {mode}: ixt {found['ixt']:.1f} img/s, timm {found['timm']:.1f} img/s, "
                f"ratio {found['ixt'] / found['timm']:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
