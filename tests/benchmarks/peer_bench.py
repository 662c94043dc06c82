"""Our figures beside those of timm's benchmark logic, in one process, in turn.

    python tests/benchmarks/peer_bench.py [MODEL ...] [--out FILE.json]

The peer is a plain loop over timm's public API that does what timm's benchmark script does: the
same random images, warm-up steps, then each step timed by itself, images over the sum. Ours is the
cell's own step and timing, with `--step plain`: forward, loss, backward and SGD, as timm's. The two
take turns, each the first in every other round, and what must agree within 3 % is the median of the
rounds' ratios, which a drift of the machine does not touch. The status is 1 if one does not agree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn

from ixt.bench.measure.steps import build_workload
from ixt.bench.measure.timing import time_step
from ixt.bench.report.names import architecture
from ixt.bench.results import Cell, Mode, Protocol
from ixt.distributed.machine import describe_machine
from ixt.models import create_model

# Many short rounds: what else the machine does then meets both alike.
ROUNDS, BATCH, SIDE, WARMUP_STEPS, TOLERANCE = 24, 8, 96, 5, 0.03
PROTOCOL = Protocol(seconds=0.5, windows=3, agreement=0.02, max_warmup=1.0, training_step="plain")
CPU = torch.device("cpu")
Step = Callable[[], object]


def ours(name: str, mode: Mode) -> Step:
    cell = Cell(
        model=name,
        mode=mode,
        layout="channels_last",
        precision="fp32",
        compile=False,
        batch_size=BATCH,
        image_size=SIDE,
    )
    return build_workload(cell, create_model(name), CPU, PROTOCOL.training_step).step


def theirs(name: str, mode: Mode) -> Step:
    model: nn.Module = timm.create_model(architecture(name)).to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (BATCH,))
    if mode == "infer":
        model.eval()

        @torch.inference_mode()
        def infer() -> object:
            return model(images)

        return infer
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def train() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(images), labels))
        optimizer.step()

    return train


def timed_as_timm(step: Step, steps: int) -> float:
    """Images per second: steps timed one by one after a warm-up, as timm's script does."""
    for _ in range(WARMUP_STEPS):
        step()
    total_s = 0.0
    for _ in range(steps):
        start_s = time.perf_counter()
        step()
        total_s += time.perf_counter() - start_s
    return BATCH * steps / total_s


def side_by_side(name: str, mode: Mode) -> dict[str, Any]:
    own, peer = ours(name, mode), theirs(name, mode)
    own_rates, peer_rates = [], []
    steps = time_step(own, PROTOCOL, CPU).steps
    for number in range(ROUNDS):
        if number % 2:
            peer_rates.append(timed_as_timm(peer, steps))
        own_rates.append(BATCH / statistics.fmean(time_step(own, PROTOCOL, CPU).seconds_per_step))
        if number % 2 == 0:
            peer_rates.append(timed_as_timm(peer, steps))
    ratios = sorted(a / b for a, b in zip(own_rates, peer_rates, strict=True))
    ratio = statistics.median(ratios)
    return {
        "model": name,
        "mode": mode,
        "ixt_images_per_s": own_rates,
        "timm_images_per_s": peer_rates,
        "ratio": ratio,
        "ratio_quartiles": [ratios[ROUNDS // 4], ratios[-1 - ROUNDS // 4]],
        "agrees": abs(ratio - 1) <= TOLERANCE,
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["inceptionnext_atto", "resnet18"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    for name in given.models:
        for mode in ("infer", "train"):
            rows.append(row := side_by_side(name, mode))
            low, high = row["ratio_quartiles"]
            print(
                f"{name} {mode}: ixt {statistics.median(row['ixt_images_per_s']):.1f} img/s, timm "
                f"{statistics.median(row['timm_images_per_s']):.1f} img/s, ratio of the rounds "
                f"{row['ratio']:.3f} (quartiles {low:.3f} to {high:.3f})",
                flush=True,
            )
    if given.out is not None:
        setting = {"batch_size": BATCH, "image_size": SIDE, "rounds": ROUNDS, "precision": "fp32"}
        machine = {**describe_machine(), "threads": torch.get_num_threads()}
        report = {"machine": machine, **setting, "tolerance": TOLERANCE, "rows": rows}
        given.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(row["agrees"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
