"""The cells of a benchmark: models x layouts x modes, each in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

from ixt.errors import EngineError
from ixt.models import create_model, eval_settings
from ixt.runtime import describe_machine

PRECISIONS = ("fp32", "tf32", "amp-bf16")


def bench_models(
    models: Sequence[str],
    batch_size: int = 128,
    image_size: int | None = None,
    precision: str = "tf32",
    seconds: float = 10.0,
) -> dict[str, Any]:
    """Measure every model in both layouts, training and inference.

    Args:
        models: names of `ixt.models.create_model`.
        batch_size: images per step.
        image_size: side in pixels; None takes each model's own.
        precision: fp32 (IEEE everywhere), tf32 (convolutions and linear layers, the paper's "full
            precision") or amp-bf16.
        seconds: time measured per cell.

    Returns:
        `machine` and `rows`; a row without `images_per_s` says why in `error`.

    Raises:
        IxtError: unknown model or precision.
    """
    if precision not in PRECISIONS:
        raise EngineError(f"--precision {precision}: give one of {', '.join(PRECISIONS)}")
    sizes = {name: image_size or eval_settings(name).image_size for name in models}
    for name in models:
        create_model(name)
    rows = []
    # Layouts alternate within a model and mode, so a drift of the machine meets both alike.
    for name, mode, channels_last in product(models, ("train", "infer"), (False, True)):
        rows.append(
            _run_cell(
                {
                    "model": name,
                    "mode": mode,
                    "channels_last": channels_last,
                    "batch_size": batch_size,
                    "image_size": sizes[name],
                    "precision": precision,
                    "seconds": seconds,
                }
            )
        )
    return {"format": 1, "machine": describe_machine(), "rows": rows}


def _run_cell(setting: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "ixt.bench.cell", json.dumps(setting)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {**setting, "error": lines[-1]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row
