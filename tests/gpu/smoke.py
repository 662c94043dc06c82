"""Train a few updates under every setting that only a GPU can try, and compare the losses.

    python tests/gpu/smoke.py OUT.json --work DIR [--rehearse] [--workers N] [--only WORD]

Each cell is `ixt train` with `--set`, as a user would call it, on generated JPEGs; its losses are
compared with those of plain fp32. A cell that ixt refuses is reported with the line of the refusal.
With --rehearse, a tiny model is trained on a CPU, with Triton's kernels in its interpreter.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import Any

from smoke_cells import CELLS, Cell
from step_runner import FAILED, GOOD, NEEDS_GPU, NOT_RUN, OVER_BUDGET, SETTLED, write_rows

REFUSED = "refused"
UPDATES, BATCH, CLASSES = 20, 32, 4  # a graph replays the last 9
BASELINES = ("fp32", "fp32 accumulated")

RECIPE = """\
model:
  name: inceptionnext_atto
  drop_path_rate: 0.1
{model}
augment: {{image_size: {size}, policy: rand-m5-mstd0.5-inc1, erase_prob: 0.25}}
optim: {{lr: 5.0e-4, label_smoothing: 0.1, max_norm: 5.0}}
schedule: {{epochs: 1, unit: update}}
ema: {{decay: 0.9}}
engine: {{global_batch_size: 32, micro_batch_size: 32, tf32: false}}
eval: {{batch_size: 32}}
run: {{log_every_steps: 1, trackers: []}}
"""
SMALL = "  kwargs: {depths: [1, 1], dims: [16, 32]}"


def write_images(root: Path, side: int = 96) -> None:
    """Class folders of JPEGs that can be told apart: noise around a colour of the class."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", UPDATES * BATCH // CLASSES), ("val", BATCH // CLASSES)):
        for label in range(CLASSES):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            colour = np.eye(CLASSES, 3)[label] * 120 + 60
            for number in range(count):
                pixels = rng.normal(colour, 40, (side, side, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:04d}.jpeg", quality=90)


def run_ixt(work: Path, name: str, *arguments: object, budget_s: float) -> tuple[int | None, str]:
    """Exit status, None if over budget, and output of `ixt`."""
    file = work / f"{name.replace(' ', '-')}.txt"
    # A compilation that is ended leaves half a library, which neither others nor a repetition of
    # this cell must find.
    cache = file.with_suffix(".cache")
    shutil.rmtree(cache, ignore_errors=True)
    with file.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "ixt", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)},
            process_group=0,
        )
        try:
            status = process.wait(budget_s)
        except subprocess.TimeoutExpired:
            status = None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, SIGKILL)
        process.wait()
    return status, file.read_text(errors="replace")


def losses_of(run: Path) -> list[float]:
    """The loss of each update, from the run's rows."""
    rows = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if row["kind"] == "steps"]


def train(cell: Cell, work: Path) -> dict[str, Any]:
    """Train a cell's updates; status, line, losses."""
    if cell.needs and importlib.util.find_spec(cell.needs) is None:
        return _row(NOT_RUN, f"needs {cell.needs}, which is not installed")
    run = work / "runs" / cell.name.replace(" ", "-")
    shutil.rmtree(run, ignore_errors=True)
    changes = [part for setting in cell.settings for part in ("--set", setting)]
    began = time.monotonic()
    status, output = run_ixt(
        work,
        cell.name,
        *("train", work / "smoke.yaml", "--data", work / "images"),
        *("--run-dir", run, "--num-processes", 1, *changes),
        budget_s=cell.budget_s,
    )
    took = {"seconds": round(time.monotonic() - began, 1), "warnings": _warnings(output)}
    if status is None:
        return _row(OVER_BUDGET, f"ended after {cell.budget_s:.0f} s", **took)
    if status == 2:
        return _row(REFUSED, _last_line(output), **took)
    if status:
        return _row(FAILED, f"exit status {status}: {_last_line(output)}", **took)
    return _row(GOOD, "trained", losses=losses_of(run), **took)


def _row(status: str, line: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "line": line, **more}


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "no output"


def _warnings(output: str) -> list[str]:
    return [line[:300] for line in output.splitlines() if "warning" in line.lower()][:5]


def judge(cell: Cell, rows: dict[str, Any], rehearsed: bool) -> dict[str, Any]:
    """A cell's row with its losses compared; rows holds the cell that it is compared with."""
    row = rows[cell.name]
    if rehearsed and cell.cuda_only and row["status"] in (GOOD, REFUSED):
        return row | {"status": NEEDS_GPU, "line": f"here it is {row['status']}: {row['line']}"}
    if row["status"] != GOOD:
        return row
    losses, expected = row["losses"], rows.get(cell.against, {}).get("losses")
    if len(losses) != UPDATES:
        return row | _row(FAILED, f"{len(losses)} losses for {UPDATES} updates")
    if cell.name in BASELINES and all(map(math.isfinite, losses)):
        return row | _row(GOOD, f"loss from {losses[0]:.3f} to {losses[-1]:.3f}")
    if expected is None:
        return row | _row(FAILED, f"nothing to compare with: {cell.against} has no losses")
    if not all(map(math.isfinite, losses)):
        return row | _row(FAILED, f"losses are not finite: {losses[:3]} ...")
    worst = max(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))
    row = row | {"difference": worst, "bound": cell.bound}
    compared = f"losses within {worst:.1e} of {cell.against}"
    if worst > cell.bound:
        return row | _row(FAILED, f"{compared}, more than {cell.bound:.0e}")
    if cell.rounds_differently and worst == 0:
        return row | _row(FAILED, f"no effect: the losses are {cell.against}'s, bit for bit")
    return row | _row(GOOD, f"{compared} (at most {cell.bound:.0e})")


def uses(work: Path, budget_s: float = 60.0) -> dict[str, Callable[[], dict[str, Any]]]:
    """Evaluate, predict with and export what the fp32 cell has trained."""
    run, images = work / "runs" / "fp32", work / "images"
    commands: dict[str, tuple[object, ...]] = {
        "eval": ("eval", run, "--data", images),
        "eval bf16": ("eval", run, "--data", images, "--precision", "bf16"),
        "predict": ("predict", run, images / "val", "--top", 1, "--json"),
        "export timm": ("export", run, work / "timm", "--format", "timm-folder", "--overwrite"),
        "export onnx": ("export", run, work / "m.onnx", "--format", "onnx", "--overwrite"),
        "export torch": (
            *("export", run, work / "m.pt2", "--format", "torch-export", "--overwrite"),
        ),
    }
    return {
        name: partial(_use, work, name, arguments, budget_s) for name, arguments in commands.items()
    }


def _use(work: Path, name: str, arguments: tuple[object, ...], budget_s: float) -> dict[str, Any]:
    began = time.monotonic()
    status, output = run_ixt(work, name, *arguments, budget_s=budget_s)
    verdict = OVER_BUDGET if status is None else {0: GOOD, 2: REFUSED}.get(status, FAILED)
    return _row(verdict, _last_line(output), seconds=round(time.monotonic() - began, 1))


def run_all(
    cells: Sequence[Cell], work: Path, workers: int, rehearsed: bool, keep: Callable[..., None]
) -> None:
    """Baselines, then all that may run beside others, cheap ones first, then the others alone."""
    rows: dict[str, Any] = {}

    def one(cell: Cell) -> dict[str, Any]:
        rows[cell.name] = train(cell, work)
        return judge(cell, rows, rehearsed)

    first = [cell for cell in cells if cell.name in BASELINES]
    last = [cell for cell in cells if cell.alone]
    rest = (cell for cell in cells if cell not in (*first, *last))
    beside = sorted(rest, key=lambda cell: cell.budget_s)
    with ThreadPoolExecutor(workers) as pool:
        for group, more in ((first, {}), (beside, uses(work, 240.0 if rehearsed else 60.0))):
            named: dict[Future[dict[str, Any]], str] = {
                pool.submit(use): name for name, use in more.items()
            }
            named |= {pool.submit(one, cell): cell.name for cell in group}
            for future in as_completed(named):
                keep(named[future], future.result())
    for cell in last:
        keep(cell.name, one(cell))


def _kept(file: Path) -> dict[str, Any]:
    """The settled cells of an earlier call; what others are compared with is trained again."""
    former: dict[str, Any] = json.loads(file.read_text())["cells"] if file.exists() else {}
    return {
        name: row
        for name, row in former.items()
        if row["status"] in SETTLED and name in {cell.name for cell in CELLS}.difference(BASELINES)
    }


def summary(rows: dict[str, Any], planned: int) -> str:
    """One line: how many cells are good, and the names of the others by status."""
    by_status: dict[str, list[str]] = {}
    for name, row in rows.items():
        by_status.setdefault(row["status"], []).append(name)
    parts = [f"{len(by_status.pop(GOOD, []))} of {planned} good"]
    return "; ".join([*parts, *(f"{status}: {', '.join(n)}" for status, n in by_status.items())])


def main() -> int:
    """Run the matrix; the file is written after every cell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--work", type=Path, required=True, help="folder for images and runs")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--only", nargs="+", metavar="CELL", help="beside the baselines")
    given = parser.parse_args()
    if given.rehearse:
        os.environ.update(CUDA_VISIBLE_DEVICES="", TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    given.work.mkdir(parents=True, exist_ok=True)
    if not (given.work / "images" / "val").exists():
        write_images(given.work / "images")
    size, model = (32, SMALL) if given.rehearse else (96, "")
    (given.work / "smoke.yaml").write_text(RECIPE.format(size=size, model=model))
    wanted = (*BASELINES, *given.only) if given.only else [cell.name for cell in CELLS]
    factor = 4.0 if given.rehearse else 1.0
    cells = [
        replace(cell, budget_s=factor * cell.budget_s) for cell in CELLS if cell.name in wanted
    ]
    planned = len(cells) + len(uses(given.work))
    rows = _kept(given.out)
    cells = [cell for cell in cells if cell.name not in rows]

    def keep(name: str, row: dict[str, Any]) -> None:
        rows[name] = row
        print(f"{name}: {row['status']}: {row['line']}", flush=True)
        write_rows(given.out, {"planned": planned, "cells": rows})

    run_all(cells, given.work, given.workers, given.rehearse, keep)
    print(summary(rows, planned))
    return int(any(row["status"] in (FAILED, OVER_BUDGET) for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
