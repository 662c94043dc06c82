"""Time a training step under each setting that may become a default, one after the other.

    python tests/gpu/training_steps.py OUT.json --data DIR [--seconds S] [--rehearse]

Each is `ixt bench e2e` in a process of its own: the step on a batch that stays on the device, the
loader alone, and both together. The file is written after each; one that it has is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from day_packages import installed
from step_runner import write_rows

BF16 = ("engine.precision=bf16",)
NHWC = (*BF16, "engine.channels_last=true")
FUSED = (*NHWC, "model.fused=true")
HALF = (*FUSED, "engine.half_residual=true")
PRODUCTS = (*HALF, "model.fused_gemm=auto")
GRAPH = ("engine.cuda_graph=true",)
MIXED = ("data.decoder=dali", "data.decode_device=gpu")
CPU_DECODE = ("data.decoder=dali", "data.decode_device=cpu")

_LIMIT_S = 90.0  # for one setting; fused_gemm: auto measures for a minute

DEFAULT = "bf16"
SETTINGS: dict[str, tuple[str, ...]] = {
    DEFAULT: BF16,
    "bf16, NHWC": NHWC,
    "bf16, NHWC, fused": FUSED,
    "bf16, NHWC, fused, half residual": HALF,
    "bf16, NHWC, fused, half residual, graph": (*HALF, *GRAPH),
    "bf16, graph": (*BF16, *GRAPH),
    "bf16, NHWC, fused, half residual, Triton products": PRODUCTS,
    "bf16, NHWC, fused, half residual, mixed decoding, graph": (*HALF, *GRAPH, *MIXED),
    "bf16, NHWC, fused, half residual, CPU decoding, graph": (*HALF, *GRAPH, *CPU_DECODE),
    "bf16, mixed decoding": (*BF16, *MIXED),
    "bf16, CPU decoding": (*BF16, *CPU_DECODE),
    "tf32": ("engine.precision=fp32",),
}
"""In the order of their use, as the budget may not suffice for all."""
_CLASSES = ("model.num_classes=10",)  # of the photographs
_SMALL = ("model.kwargs={depths: [1, 1, 1, 1], dims: [16, 16, 32, 32]}", "augment.image_size=32",
          "engine.global_batch_size=8", "engine.micro_batch_size=8")  # fmt: skip
_REHEARSED = (DEFAULT, "bf16, NHWC, fused", "bf16, graph")


def measure(name: str, data: Path, seconds: float, rehearse: bool) -> dict[str, Any]:
    """What `ixt bench e2e` finds, or its error."""
    settings = SETTINGS[name]
    if "data.decoder=dali" in settings and installed("nvidia-dali-cuda130") is None:
        return {"error": "needs nvidia-dali-cuda130, which is not installed"}
    model = "inceptionnext_atto" if rehearse else "inceptionnext_tiny"
    results = data.parent / "e2e.json"
    results.unlink(missing_ok=True)
    changes = [part for s in (*settings, *_CLASSES, *_SMALL * rehearse) for part in ("--set", s)]
    command = ["bench", "e2e", model, "--data", str(data), "--seconds", str(seconds)]
    limit = _LIMIT_S * (4 if rehearse else 1)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ixt", *command, "--results", str(results), *changes],
            capture_output=True,
            text=True,
            check=False,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"ended after {limit:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"error": lines[-1][:400]}
    found: dict[str, Any] = json.loads(results.read_text())
    found.pop("machine")
    return found


def main() -> None:
    """Measure every setting and print what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="per mode")
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args()
    if given.rehearse:
        os.environ.update(CUDA_VISIBLE_DEVICES="", TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    rows: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    rows = {name: row for name, row in rows.items() if "error" not in row}
    for name in _REHEARSED if given.rehearse else SETTINGS:
        if name in rows:
            continue
        row = measure(name, given.data, given.seconds, given.rehearse)
        rows[name] = row
        print(f"{name}: {row.get('verdict') or row['error']}", flush=True)
        write_rows(given.out, rows)
    good = [name for name, row in rows.items() if "error" not in row]
    others = "".join(f"; {name}: {row['error']}" for name, row in rows.items() if name not in good)
    print(f"{len(good)} of {len(rows)} settings measured{others}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
