"""One measurement, in a process of its own: `python -m ixt.bench.cell` reads JSON, prints JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ixt.models import count_macs, count_params, create_model

_WINDOWS = 5


def measure(setting: dict[str, Any]) -> dict[str, Any]:
    """Measure one cell.

    Args:
        setting: model, mode (train or infer), channels_last, batch_size, image_size, precision
            (fp32, tf32 or amp-bf16), seconds.

    Returns:
        The setting with images_per_s (median of the windows), its lowest and highest window,
        ms_per_step, params, macs, peak memory in GiB on a CUDA device. Out of memory gives `error`.
    """
    try:
        return {**setting, **_measure(setting)}
    except torch.OutOfMemoryError:
        return {**setting, "error": "out of memory"}


def _measure(setting: dict[str, Any]) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _set_precision(setting["precision"])
    model = create_model(setting["model"])
    facts = {"params": count_params(model), "macs": count_macs(model, setting["image_size"])}
    layout = torch.channels_last if setting["channels_last"] else torch.contiguous_format
    model = model.to(device).to(memory_format=layout)
    shape = (setting["batch_size"], 3, setting["image_size"], setting["image_size"])
    # Random numbers, never zeros: a device draws less power, and clocks higher, on zeros.
    images = torch.randn(shape, device=device).contiguous(memory_format=layout)
    labels = torch.randint(1000, (setting["batch_size"],), device=device)
    step = (_train_step if setting["mode"] == "train" else _infer_step)(
        model, images, labels, setting["precision"], device
    )
    windows = _time_windows(step, setting["seconds"], device)
    rates = sorted(setting["batch_size"] / seconds for seconds in windows)
    median = statistics.median(rates)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {
        **facts,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "images_per_s": median,
        "slowest_images_per_s": rates[0],
        "fastest_images_per_s": rates[-1],
        "ms_per_step": 1000 * setting["batch_size"] / median,
        "peak_memory_gib": memory,
    }


def _set_precision(precision: str) -> None:
    """Set both TF32 switches explicitly: torch's defaults treat convolutions and linears apart."""
    value = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cudnn.conv.fp32_precision = value  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = value
    torch.backends.cudnn.benchmark = True


def _autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    if precision == "amp-bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _train_step(
    model: nn.Module, images: Tensor, labels: Tensor, precision: str, device: torch.device
) -> Callable[[], None]:
    """The whole step: gradients cleared, forward, loss, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        with _autocast(precision, device):
            logits = model(images)
        torch.autograd.backward(F.cross_entropy(logits.float(), labels))
        optimizer.step()

    return step


def _infer_step(
    model: nn.Module, images: Tensor, labels: Tensor, precision: str, device: torch.device
) -> Callable[[], None]:
    model.eval()

    @torch.inference_mode()
    def step() -> None:
        with _autocast(precision, device):
            model(images)

    return step


def _time_windows(step: Callable[[], None], seconds: float, device: torch.device) -> list[float]:
    """Seconds per step of each window, after a warm-up as long as two windows."""
    window_s = seconds / _WINDOWS
    _time_window(step, 2 * window_s, device)
    return [_time_window(step, window_s, device) for _ in range(_WINDOWS)]


def _time_window(step: Callable[[], None], window_s: float, device: torch.device) -> float:
    """Seconds per step; the device is waited for every few steps, never after each."""
    _wait(device)
    start_s, steps, burst = time.perf_counter(), 0, 1
    while True:
        for _ in range(burst):
            step()
        _wait(device)
        steps += burst
        elapsed_s = time.perf_counter() - start_s
        if elapsed_s >= window_s:
            return elapsed_s / steps
        burst = max(1, min(int(steps / elapsed_s * (window_s - elapsed_s)), 4 * burst))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
