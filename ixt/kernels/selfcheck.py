"""Whether fused layers compute on this device what plain PyTorch computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.models.convnext import ConvNeXtBlock
from timm.models.inception_next import MetaNeXtBlock
from torch import Tensor, nn

from ixt.kernels.folded import FoldedBlock, channels_of
from ixt.kernels.fuse import fuse
from ixt.kernels.modules import FusedMixer, bands_of, lay_out_filters, token_mixers
from ixt.kernels.residual import HalfResidualBlock

_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Largest error over the largest value; a result's last bit in fp16 and bf16."""
# Not a multiple of any tile, more than one tile, a width unlike the height.
_IMAGES, _HEIGHT, _WIDTH = 2, 14, 11


def mixers_to_fuse(model: nn.Module) -> list[nn.Module]:
    """The different mixers of a model that can be fused, in its order."""
    return list({bands_of(layer): layer for layer in token_mixers(model)}.values())


def blocks_to_fold(model: nn.Module) -> list[nn.Module]:
    """The different blocks of a model that `fuse` would fold, in its order."""
    found: dict[Any, nn.Module] = {}
    for block in model.modules():
        if isinstance(block, MetaNeXtBlock | ConvNeXtBlock | HalfResidualBlock):
            sizes = tuple((name, p.shape) for name, p in block.named_parameters())
            if sizes not in found and isinstance(_fused(block, fuse), FoldedBlock):
                found[sizes] = block
    return list(found.values())


def fuse_alone(holder: nn.ModuleList) -> None:
    """Fuse a mixer, or a block that is to be folded, alone in a list."""
    if bands_of(holder[0]) is None:
        fuse(holder)
    else:
        holder[0] = FusedMixer(holder[0])


def disagreement(
    layers: Iterable[nn.Module],
    device: torch.device,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    put_in: Callable[[nn.ModuleList], object] = fuse_alone,
) -> str | None:
    """What is wrong with fused layers on a device; None if nothing is.

    A training pass, output and all gradients, is compared with the plain layer's in float64, from
    the same random numbers. A block's error in `dtype` may also be three times as large as that of
    the plain block. Draws nothing from torch's own generators.

    The weights of layers, mixers or blocks, do not matter. `dtype` is fp32, or that of autocast;
    `put_in` fuses the layer in a list of one.
    """
    for layer in layers:
        try:
            problem = _problem(layer, device, dtype, memory_format, put_in)
        except Exception as error:  # whatever a compiler, a driver or an installation throws
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"{type(error).__name__}: {reason[:200]}"
        if problem is not None:
            return problem
    return None


def _problem(
    layer: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    put_in: Callable[[nn.ModuleList], object],
) -> str | None:
    generator = torch.Generator().manual_seed(0)
    layer = _with_random_weights(layer, generator).to(device)
    mixer = bands_of(layer)
    channels = channels_of(layer) if mixer is None else mixer[0]
    size = (_IMAGES, channels, _HEIGHT, _WIDTH)
    x, grad = (torch.randn(size, generator=generator).to(device) for _ in range(2))
    if mixer is not None:
        x, grad = x.to(dtype), grad.to(dtype)
    x = x.contiguous(memory_format=memory_format)
    exact = _results(copy.deepcopy(layer).double(), x.double(), grad.double(), dtype)
    ours = _fused(layer, put_in)
    if memory_format == torch.channels_last:
        lay_out_filters(ours)
    fused = _results(ours, x, grad, dtype)
    plain = None if mixer else _results(layer, x, grad, dtype)
    for name, right in exact.items():
        # Batch norm takes away what a mixer's bias adds: no gradient is left to compare with.
        no_gradient = "token_mixer" in name and name.endswith("bias")
        scale = float(exact["gradient of norm.bias" if no_gradient else name].abs().max())
        off = float((fused[name].double() - right).abs().max()) / scale
        usual = float((plain[name].double() - right).abs().max()) / scale if plain else 0.0
        # Written so that NaN is a disagreement.
        if not off <= 3 * usual + _TOLERANCE[dtype]:
            kind = type(layer).__name__
            return (
                f"{name} of a fused {kind} of {channels} channels is off by {off:.1e} of its "
                "largest value" + (f", of a plain one by {usual:.1e}" if plain else "")
            )
    return None


def _with_random_weights(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy of a layer on the CPU, in training mode and fp32, that drops no path."""
    layer = copy.deepcopy(layer).to("cpu", torch.float32).train()
    if hasattr(layer, "drop_path"):
        layer.drop_path = nn.Identity()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            if parameter.ndim > 1:
                parameter.div_(parameter[0].numel() ** 0.5)
    return layer


def _fused(layer: nn.Module, put_in: Callable[[nn.ModuleList], object]) -> nn.Module:
    holder = nn.ModuleList([copy.deepcopy(layer)])
    put_in(holder)
    return holder[0]


def _results(layer: nn.Module, x: Tensor, grad: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """The output, and the gradients of the input and of all parameters, by name."""
    x = x.detach().requires_grad_()
    half = dtype if dtype != torch.float32 and x.dtype != torch.float64 else None
    with torch.enable_grad(), torch.autocast(x.device.type, half, enabled=half is not None):
        out = layer(x)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    grads = torch.autograd.grad(out, [x, *parameters], grad.to(out.dtype))
    of = (f"gradient of {name}" for name in ("the input", *names))
    return {"output": out.detach(), **dict(zip(of, grads, strict=True))}
