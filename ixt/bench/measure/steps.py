"""The step that a cell times: a whole training step, or a forward pass, in a named precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ixt.bench.results import Cell, TrainingStep
from ixt.distributed.arithmetic import set_tf32
from ixt.training.ema import Ema

AUTOCAST = {"amp-bf16": torch.bfloat16, "amp-fp16": torch.float16}
"""Types of products under autocast, by precision."""
_EMA_DECAY = 0.9999
_MAX_NORM = 1.0
_LR, _MOMENTUM = 1e-4, 0.9


class Impossible(Exception):
    """A cell asks for what this machine does not do; the message is one line."""


@dataclass(frozen=True)
class Workload:
    """A model and what is timed on it."""

    model: nn.Module
    images: Tensor
    """(B, 3, S, S), random, in the cell's memory order."""
    step: Callable[[], object]
    """Enqueues one step."""


def refuse_impossible_precision(precision: str, device: torch.device) -> None:
    """Refuse arithmetic that the device does not have.

    Raises:
        Impossible: the precision does not exist here.
    """
    if device.type != "cuda" and precision in ("tf32", "amp-fp16"):
        raise Impossible(f"{precision} needs a CUDA device; here: fp32, amp-bf16, bf16")
    if device.type == "cuda" and precision == "tf32":
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            raise Impossible(f"tf32 needs compute capability 8.0, this device has {major}.{minor}")


def refuse_impossible(cell: Cell, device: torch.device) -> None:
    """Refuse what the device cannot do.

    Raises:
        Impossible: the precision or the compiler does not exist here.
    """
    refuse_impossible_precision(cell.precision, device)
    compilers = ("g++", "clang++")
    if cell.compile and device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise Impossible("--compile on needs a C++ compiler; install g++")


def set_math(precision: str) -> None:
    """Set TF32, in convolutions and linear layers alike, and let cuDNN try its algorithms."""
    set_tf32(precision == "tf32")
    torch.backends.cudnn.benchmark = True


def build_workload(
    cell: Cell, model: nn.Module, device: torch.device, training_step: TrainingStep = "full"
) -> Workload:
    """Put a model and random images on a device and make the step.

    The model gives (B, 1000) logits; on training_step see `Protocol`.
    """
    set_math(cell.precision)
    layout = torch.channels_last if cell.layout == "channels_last" else torch.contiguous_format
    dtype = torch.bfloat16 if cell.precision == "bf16" else torch.float32
    model = model.to(device, dtype).to(memory_format=layout)
    shape = (cell.batch_size, 3, cell.image_size, cell.image_size)
    # Random numbers, never zeros: a device draws less power, and clocks higher, on zeros.
    images = torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=layout)
    if cell.compile:
        model.compile()
    if cell.mode == "infer":
        step = _infer_step(cell, model, images)
    else:
        step = _train_step(cell, model, images, full=training_step == "full")
    return Workload(model, images, step)


def _autocast(cell: Cell, device: torch.device) -> AbstractContextManager[Any]:
    dtype = AUTOCAST.get(cell.precision)
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def _train_step(cell: Cell, model: nn.Module, images: Tensor, full: bool) -> Callable[[], object]:
    """Gradients cleared, forward, loss, backward and SGD: what benchmark scripts do.

    In full, what training does: clipping, AdamW in place of SGD, and EMA.
    """
    device, parameters = images.device, list(model.parameters())
    optimizer = (
        torch.optim.AdamW(parameters, lr=_LR)
        if full
        else torch.optim.SGD(parameters, lr=_LR, momentum=_MOMENTUM)
    )
    scaler = torch.amp.GradScaler(device.type, enabled=cell.precision == "amp-fp16")
    labels = torch.randint(1000, (cell.batch_size,), device=device)
    ema = Ema(model) if full else None
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        with _autocast(cell, device):
            logits = model(images)
        scaler.scale(F.cross_entropy(logits.float(), labels)).backward()  # type: ignore[no-untyped-call]
        if full:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, _MAX_NORM)
        scaler.step(optimizer)
        scaler.update()
        if ema is not None:
            ema.update(_EMA_DECAY)

    return step


def _infer_step(cell: Cell, model: nn.Module, images: Tensor) -> Callable[[], object]:
    model.eval()

    @torch.inference_mode()
    def step() -> Tensor:
        with _autocast(cell, images.device):
            logits: Tensor = model(images)
        return logits

    return step
