"""Print one JSON object about this machine: its device, or why torch sees none."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import warnings
from pathlib import Path
from typing import Any

from day_packages import installed

_SHOWN = ("torch", "torchvision", "triton", "timm", "accelerate", "deepspeed", "numpy",
          "nvidia-dali-cuda130")  # fmt: skip


def probe() -> dict[str, Any]:
    """Device, memory, versions and commit; `problem` is None where a CUDA device is usable."""
    machine: dict[str, Any] = {
        "device": None,
        "memory_gib": None,
        "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in _SHOWN},
        "commit": _first_line("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"),
    }
    return machine | _cuda()


def _cuda() -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            import torch

            if torch.cuda.is_available():
                torch.ones(1, device="cuda").sum().item()  # also tells a driver that is too old
                found = torch.cuda.get_device_properties(0)
                gib = round(found.total_memory / 2**30, 1)
                return {"device": found.name, "memory_gib": gib, "problem": None}
            built = torch.version.cuda
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            return {"problem": f"torch cannot be used: {text.splitlines()[0]}"}
    reasons = [str(w.message).splitlines()[0] for w in caught if "CUDA" in str(w.message)]
    reason = reasons[0] if reasons else f"torch is built for {f'CUDA {built}' if built else 'CPUs'}"
    return {"problem": f"torch sees no CUDA device: {reason}"}


def _first_line(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split("\n")), "").strip() or None


if __name__ == "__main__":
    print(json.dumps(probe()))
