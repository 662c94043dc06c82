"""`ixt bench kernels`: fused layers, eager PyTorch, torch.compile and the memory floor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ixt.distributed.machine import describe_machine
from ixt.errors import EngineError, ModelError
from ixt.files import write_json
from ixt.kernels.apply import DTYPES
from ixt.kernels.modules import bands_of, token_mixers
from ixt.kernels.product_choice import CUBLAS, Timer, product_times, products, time_on_device
from ixt.kernels.residual import HalfResidualBlock, keep_residual_half
from ixt.kernels.selfcheck import blocks_to_fold, disagreement, fuse_alone, mixers_to_fuse
from ixt.models import create_empty_model, create_model, eval_settings

ORDERS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}

PASSES = {"fc1": "GELU", "fc2_grad": "GELU's slope, sum", "fc2": "residual sum",
          "fc1_grad": "batch norm's gradient", "mlp": "forward + backward"}  # fmt: skip
"""What follows a product; of a whole MLP, what is computed."""


@dataclass(frozen=True)
class Subject:
    """A layer of a model that is measured, and the image that it gets there."""

    label: str
    """What it is, its channels and its image's side."""
    layer: nn.Module
    size: tuple[int, int, int]
    """Channels, height, width."""
    floors: tuple[float, float]
    """Tensors of its input's size that must be moved: forward, and forward and backward."""


@dataclass(frozen=True)
class KernelRow:
    """One way to compute one layer."""

    layer: str
    """What it is, its channels and its image's side."""
    passes: str
    """forward, or forward + backward; of a product, what follows it."""
    how: str
    """fused, eager or compiled; of a product, cublas + pass, or triton and its tile."""
    ms: float
    """Median time of a call, in milliseconds, with a cold L2 cache."""
    gb_per_s: float
    """The floor's bytes over that time, in 1e9 bytes/s: not what a way really moves."""
    percent_of_copy: float
    """That rate over the rate of a copy of the same tensor on the same device."""
    tflop_per_s: float | None = None
    """Operations of a matrix product over its time, what follows it included, in 1e12/s."""


def bench_kernels(
    model: str, batch_size: int, precision: str, layout: str, results: Path | None = None
) -> list[KernelRow]:
    """Measure every mixer and block of a model, forward, and forward and backward.

    Layers are measured at the model's own image size, with fp32 weights under autocast; blocks in
    channels_last only. Rows and machine go to `results` as JSON.

    Raises:
        EngineError: there is no CUDA device, or a fused layer is wrong here.
        ModelError: the model is unknown or has nothing to fuse.
    """
    if not torch.cuda.is_available():
        raise EngineError(
            "ixt bench kernels: needs a CUDA device, and there is none here; "
            "Triton's kernels run on nothing else"
        )
    device, dtype, order = torch.device("cuda"), DTYPES[precision], ORDERS[layout]
    subjects = find_subjects(model, blocks=layout == "channels_last")
    timer = partial(time_on_device, warmup=200, rep=500)
    net = create_model(model)
    blocks = blocks_to_fold(net) if layout == "channels_last" else []
    problem = disagreement([*mixers_to_fuse(net), *blocks], device, dtype, order)
    if problem is not None:
        raise EngineError(f"{torch.cuda.get_device_name()}: fused layers are wrong: {problem}")
    rows = []
    for subject in subjects:
        x = torch.randn((batch_size, *subject.size), device=device, dtype=dtype)
        rows += measure(subject, x.contiguous(memory_format=order), timer)
    if layout == "channels_last":
        rows += measure_products(model, batch_size, dtype, device, timer)
    if results is not None:
        report = {
            "machine": describe_machine(),
            "model": model,
            "batch_size": batch_size,
            "precision": precision,
            "layout": layout,
            "rows": [asdict(row) for row in rows],
        }
        write_json(results, report)
    return rows


def find_subjects(model: str, blocks: bool = True) -> list[Subject]:
    """The different mixers of a model, then its different blocks that can be folded.

    Blocks have a half residual stream, without which they would be measured with casts.

    Raises:
        ModelError: the model is unknown or has nothing to fuse.
    """
    net = create_model(model).eval()
    mixers = {id(layer) for layer in token_mixers(net)}
    if not mixers:
        raise ModelError(f"{model}: has no mixer to fuse; name an InceptionNeXt or a ConvNeXt")
    keep_residual_half(net)
    found: dict[tuple[object, ...], Subject] = {}
    hooks = []

    def note(layer: Any, inputs: tuple[Tensor]) -> None:
        size = (inputs[0].shape[1], inputs[0].shape[2], inputs[0].shape[3])
        is_mixer = id(layer) in mixers
        make = _mixer if is_mixer else _block
        found.setdefault((not is_mixer, size), make(layer, size))

    for layer in net.modules():
        foldable = isinstance(layer, HalfResidualBlock) and blocks_to_fold(nn.ModuleList([layer]))
        if id(layer) in mixers or (blocks and foldable):
            hooks.append(layer.register_forward_pre_hook(note))
    side = eval_settings(model).image_size
    with torch.no_grad():
        net(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return [found[key] for key in sorted(found, key=lambda key: bool(key[0]))]


def _mixer(layer: nn.Module, size: tuple[int, int, int]) -> Subject:
    """Floor: read and write; the same for the input's gradient; its bands twice for weights."""
    shape = bands_of(layer)
    assert shape is not None
    bands = " + ".join(f"{height}x{width}" for height, width in shape[1].sizes)
    share = len(shape[1].sizes) * shape[1].groups / size[0]
    label = f"{bands} on {share:.0%} of {size[0]} ch, {size[1]} px"
    return Subject(label, layer, size, (2.0, 4.0 + 2 * share))


def _block(layer: Any, size: tuple[int, int, int]) -> Subject:
    """Floor: the mixer's, every product's operands and result once, the shortcut once each way."""
    ratio = len(layer.mlp.fc1.weight) / size[0]
    mixer = _mixer(getattr(layer, "token_mixer", None) or layer.conv_dw, size).floors
    floors = (mixer[0] + 2 * (1 + ratio) + 1, mixer[1] + 6 * (1 + ratio) + 2)
    return Subject(f"block of {size[0]} ch, {size[1]} px", layer, size, floors)


def measure(subject: Subject, x: Tensor, timer: Timer, compiled: bool = True) -> list[KernelRow]:
    """Time one layer fused, eager and compiled, and a copy of its input for comparison.

    The fp32 weights of `subject` run under autocast to the type of x, (N, C, H, W), its input; the
    casts are timed.
    """
    holders = [nn.ModuleList([copy.deepcopy(subject.layer)]) for _ in range(2)]
    for holder in holders:
        holder.to(x.device).train()
        for parameter in holder.parameters():
            parameter.grad = None
    fuse_alone(holders[0])
    ways: dict[str, Any] = {"fused": holders[0][0], "eager": holders[1][0]}
    if compiled:
        ways["compiled"] = torch.compile(holders[1][0], dynamic=False)
    target, grad = torch.empty_like(x), torch.randn_like(x)
    copy_rate = 2 * x.nbytes / timer(lambda: target.copy_(x))
    rows = []
    for passes, floor in zip(("forward", "forward + backward"), subject.floors, strict=True):
        for how, layer in ways.items():
            call = _forward(layer, x) if passes == "forward" else _both(layer, x, grad)
            ms = timer(call)
            rate = floor * x.nbytes / ms
            rows.append(
                KernelRow(subject.label, passes, how, ms, rate / 1e6, 100 * rate / copy_rate)
            )
    return rows


def measure_products(
    model: str, batch_size: int, dtype: torch.dtype, device: torch.device, timer: Timer
) -> list[KernelRow]:
    """Time the products of a model's folded blocks by cuBLAS and a pass, and by Triton alone.

    All operands are of `dtype`: blocks are measured with a half residual stream.
    """
    rows = []
    side = eval_settings(model).image_size
    net = create_empty_model(model)
    for product in products(net, side, batch_size, dtype, dtype, device):
        source = torch.randn(product.moved_bytes // 8, device=device)
        copy_rate = 2 * source.nbytes / timer(partial(torch.empty_like(source).copy_, source))
        for way, ms in product_times(product, timer).items():
            how = "cublas + pass" if way == CUBLAS else f"triton {way}"
            rate = product.moved_bytes / ms
            share = 100 * rate / copy_rate
            teraflops = product.flops / ms / 1e9
            label, passes = f"product {product.name}", PASSES[product.name.split("-")[0]]
            rows.append(KernelRow(label, passes, how, ms, rate / 1e6, share, teraflops))
    return rows


def _forward(layer: nn.Module, x: Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad(), _autocast(x):
            return layer(x)

    return call


def _both(layer: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], object]:
    """Forward and all gradients."""
    leaves = [x.detach().requires_grad_(), *layer.parameters()]

    def call() -> object:
        with _autocast(x):
            out = layer(leaves[0])
        return torch.autograd.grad(out, leaves, grad)

    return call


def _autocast(x: Tensor) -> torch.autocast:
    half = x.dtype if x.dtype in (torch.bfloat16, torch.float16) else None
    return torch.autocast(x.device.type, half, enabled=half is not None)


def print_kernels(rows: Sequence[KernelRow]) -> None:
    """Print a table, one line per layer, pass and way."""
    table = Table("layer", "passes", "how", "ms", "GB/s of the floor", "% of a copy", "TFLOP/s")
    for row, after in zip(rows, (*rows[1:], None), strict=True):
        numbers = (f"{row.ms:.4f}", f"{row.gb_per_s:.0f}", f"{row.percent_of_copy:.0f}")
        work = "" if row.tflop_per_s is None else f"{row.tflop_per_s:.0f}"
        last = after is None or (after.layer, after.passes) != (row.layer, row.passes)
        table.add_row(row.layer, row.passes, row.how, *numbers, work, end_section=last)
    Console().print(table)
