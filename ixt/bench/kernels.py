"""`ixt bench kernels`: the fused mixer, eager PyTorch, torch.compile and the memory floor."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ixt.durable import replace_text
from ixt.errors import EngineError, ModelError
from ixt.kernels import disagreement, mixer_shapes
from ixt.kernels.modules import FusedInceptionMixer, is_fusible
from ixt.models import create_model, eval_settings
from ixt.runtime import describe_machine

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
ORDERS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}

Timer = Callable[[Callable[[], object]], float]
"""Gives the median milliseconds of one call."""


@dataclass(frozen=True)
class KernelRow:
    """One way to compute one mixer."""

    mixer: str
    """Channels, branch width and image side."""
    passes: str
    """forward, or forward + backward."""
    how: str
    """fused, eager or compiled."""
    ms: float
    """Median time of a call, in milliseconds, with a cold L2 cache."""
    gb_per_s: float
    """The floor's bytes over that time, in 1e9 bytes/s: not what a way really moves."""
    percent_of_copy: float
    """That rate over the rate of a copy of the same tensor on the same device."""


def bench_kernels(
    model: str, batch_size: int, precision: str, layout: str, results: Path | None = None
) -> list[KernelRow]:
    """Measure every mixer of a model, forward, and forward and backward.

    Args:
        model: a name of `ixt.models.create_model`; its mixers at its own image size are measured.
        batch_size: images.
        precision: bf16, fp16 or fp32; weights are fp32.
        layout: channels_last or contiguous.
        results: JSON file for rows and machine.

    Raises:
        EngineError: there is no CUDA device, a word is unknown, or the fused mixer is wrong here.
        ModelError: the model is unknown or has no mixer to fuse.
    """
    _known("--precision", precision, DTYPES)
    _known("--layout", layout, ORDERS)
    if not torch.cuda.is_available():
        raise EngineError(
            "ixt bench kernels: needs a CUDA device, and there is none here; "
            "Triton's kernels run on nothing else"
        )
    device, dtype, order = torch.device("cuda"), DTYPES[precision], ORDERS[layout]
    mixers = find_mixers(model)
    shapes = mixer_shapes(nn.ModuleList(mixer for mixer, _ in mixers))
    problem = disagreement(shapes, device, dtype, order)
    if problem is not None:
        raise EngineError(f"{torch.cuda.get_device_name()}: the fused mixer is wrong: {problem}")
    rows = []
    for mixer, side in mixers:
        size = (batch_size, sum(mixer.split_indexes), side, side)
        x = torch.randn(size, device=device, dtype=dtype).contiguous(memory_format=order)
        rows += measure_mixer(mixer.to(device), x, _time)
    if results is not None:
        report = {
            "machine": describe_machine(),
            "model": model,
            "batch_size": batch_size,
            "precision": precision,
            "layout": layout,
            "rows": [asdict(row) for row in rows],
        }
        replace_text(results, json.dumps(report, indent=1) + "\n")
    return rows


def find_mixers(model: str) -> list[tuple[Any, int]]:
    """The different mixers of a model, each with the side of its image in pixels.

    Raises:
        ModelError: the model is unknown or has none to fuse.
    """
    net = create_model(model).eval()
    found: dict[tuple[int, ...], tuple[Any, int]] = {}

    def note(mixer: Any, inputs: tuple[Tensor]) -> None:
        found.setdefault(tuple(inputs[0].shape[1:]), (mixer, inputs[0].shape[-1]))

    for module in net.modules():
        if is_fusible(module):
            module.register_forward_pre_hook(note)
    side = eval_settings(model).image_size
    with torch.no_grad():
        net(torch.zeros(1, 3, side, side))
    if not found:
        raise ModelError(f"{model}: has no Inception mixer; name an InceptionNeXt")
    return list(found.values())


def measure_mixer(mixer: Any, x: Tensor, timer: Timer, compiled: bool = True) -> list[KernelRow]:
    """Time one mixer fused, eager and compiled, and a copy of its input for comparison.

    Args:
        mixer: timm's, with fp32 weights; the plain ways get weights of x's type, as autocast
            would give them, without the time of the cast.
        x: (N, C, H, W), its input.
        timer: measures a call.
        compiled: also measure torch.compile.
    """
    fused = FusedInceptionMixer(mixer)
    plain = type(mixer)(x.shape[1], branch_ratio=mixer.dwconv_hw.in_channels / x.shape[1],
                        square_kernel_size=mixer.dwconv_hw.kernel_size[0],
                        band_kernel_size=mixer.dwconv_w.kernel_size[1],
                        dilation=fused.dilation)  # fmt: skip
    plain.load_state_dict(mixer.state_dict())
    plain = plain.to(x.device, x.dtype)
    ways: dict[str, Any] = {"fused": fused, "eager": plain}
    if compiled:
        ways["compiled"] = torch.compile(plain, dynamic=False)
    target, grad = torch.empty_like(x), torch.randn_like(x)
    copy_rate = 2 * x.nbytes / timer(lambda: target.copy_(x))
    groups, side = mixer.dwconv_hw.in_channels, x.shape[-1]
    label = f"{x.shape[1]} ch, branches of {groups}, {side} px"
    rows = []
    for passes, floor in (("forward", 2.0), ("forward + backward", 4 + 3 * groups / x.shape[1])):
        for how, layer in ways.items():
            call = _forward(layer, x) if passes == "forward" else _both(layer, x, grad)
            ms = timer(call)
            rate = floor * x.nbytes / ms
            rows.append(KernelRow(label, passes, how, ms, rate / 1e6, 100 * rate / copy_rate))
    return rows


def _forward(layer: nn.Module, x: Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return layer(x)

    return call


def _both(layer: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], object]:
    """Forward and all gradients; floor: 2 C, then 2 C for the input, its branches read again."""
    leaves = [x.detach().requires_grad_(), *layer.parameters()]

    def call() -> object:
        return torch.autograd.grad(layer(leaves[0]), leaves, grad)

    return call


def _time(call: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return float(do_bench(call, warmup=200, rep=500, return_mode="median"))


def _known(option: str, word: str, allowed: dict[str, Any]) -> None:
    if word not in allowed:
        raise EngineError(f"{option}: {word}: give one of {', '.join(allowed)}")


def print_kernels(rows: Sequence[KernelRow]) -> None:
    """Print a table, one line per mixer, pass and way."""
    table = Table("mixer", "passes", "how", "ms", "GB/s of the floor", "% of a copy")
    for row in rows:
        numbers = (f"{row.ms:.4f}", f"{row.gb_per_s:.0f}", f"{row.percent_of_copy:.0f}")
        table.add_row(row.mixer, row.passes, row.how, *numbers, end_section=row.how == "compiled")
    Console().print(table)
