"""Whether fused operators compute on this device what plain PyTorch computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.models.inception_next import MetaNeXtBlock
from torch import Tensor, nn

from ixt.kernels.bands import depthwise_bands
from ixt.kernels.folded import FoldedBlock, fuse
from ixt.kernels.modules import bands_of, token_mixers
from ixt.kernels.residual import HalfResidualBlock
from ixt.kernels.shapes import Bands

_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Largest error over the largest value; a result's last bit in fp16 and bf16."""
# Not a multiple of any tile, more than one tile, a width unlike the height.
_IMAGES, _HEIGHT, _WIDTH = 2, 14, 11

Mix = Callable[..., Tensor]


@dataclass(frozen=True)
class MixerShape:
    """What the compiled kernels of a mixer depend on."""

    channels: int
    bands: Bands


def mixer_shapes(model: nn.Module) -> list[MixerShape]:
    """The different mixers of a model that can be fused, in its order."""
    found = (bands_of(layer) for layer in token_mixers(model))
    return list(dict.fromkeys(MixerShape(*shape) for shape in found if shape))


def disagreement(
    shapes: Iterable[MixerShape],
    device: torch.device,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    mix: Mix = depthwise_bands,
) -> str | None:
    """What is wrong with the fused mixer on a device; None if nothing is.

    Output and all gradients are compared with plain float64 convolutions, from the same random
    numbers. Draws nothing from torch's own generators.

    Args:
        shapes: mixers to look at.
        device: where.
        dtype: of images; weights are float32.
        memory_format: of images.
        mix: the operator.
    """
    for shape in shapes:
        try:
            fused, plain = _compare(shape, device, dtype, memory_format, mix)
        except Exception as error:  # whatever a compiler, a driver or an installation throws
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"{type(error).__name__}: {reason[:200]}"
        for name, found, expected in zip(_names(shape.bands), fused, plain, strict=True):
            scale = expected.abs().max().item()
            off = (found.double() - expected).abs().max().item() / scale
            # Written so that NaN is a disagreement.
            if not off <= _TOLERANCE[dtype]:
                return f"{name} is off by {off:.1e} of its largest value with {shape}"
    return None


def _compare(
    shape: MixerShape,
    device: torch.device,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    mix: Mix,
) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(device)

    size = (_IMAGES, shape.channels, _HEIGHT, _WIDTH)
    x, grad = (draw(*size).to(dtype).contiguous(memory_format=memory_format) for _ in range(2))
    bands = shape.bands
    filters = [draw(bands.groups, 1, *size) for size in bands.sizes]
    biases = [draw(bands.groups) for _ in bands.sizes]
    fused = _results(mix, x, [*filters, *biases], grad, bands.dilation)
    # In float64 the operator is plain PyTorch on every device.
    wide = [tensor.double() for tensor in (*filters, *biases)]
    return fused, _results(depthwise_bands, x.double(), wide, grad.double(), bands.dilation)


def _results(
    mix: Mix, x: Tensor, weights: list[Tensor], grad: Tensor, dilation: int
) -> list[Tensor]:
    """The output, and the gradients of input, filters and biases."""
    leaves = [tensor.detach().requires_grad_() for tensor in (x, *weights)]
    num_bands = len(weights) // 2
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        out = mix(leaves[0], leaves[1 : 1 + num_bands], leaves[1 + num_bands :], dilation)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def _names(bands: Bands) -> list[str]:
    """What is compared, in order."""
    sizes = [f"{height}x{width}" for height, width in bands.sizes]
    return [
        "output",
        "gradient of the input",
        *(f"gradient of the {size} {part}" for part in ("filters", "biases") for size in sizes),
    ]


def blocks_to_fold(model: nn.Module) -> list[nn.Module]:
    """Copies of the different blocks of a model that `fuse` would fold, in its order."""
    found: dict[Any, nn.Module] = {}
    for block in model.modules():
        if isinstance(block, MetaNeXtBlock | HalfResidualBlock):
            sizes = tuple((name, p.shape) for name, p in block.named_parameters())
            if sizes not in found and _folds(block):
                found[sizes] = copy.deepcopy(block)
    return list(found.values())


def block_disagreement(
    blocks: Iterable[nn.Module],
    device: torch.device,
    dtype: torch.dtype,
    fold: Callable[[nn.Module], object] = fuse,
) -> str | None:
    """What is wrong with folded blocks on a device; None if nothing is.

    A training pass in NHWC, output and all gradients, in float64 by timm's layers, and in `dtype`
    by those and by folded ones, whose error may be three times as large. Draws nothing from torch's
    own generators.

    Args:
        blocks: to look at; their weights do not matter.
        device: where.
        dtype: fp32, or that of autocast.
        fold: folds the blocks inside a module.
    """
    for block in blocks:
        try:
            problem = _block_problem(block, device, dtype, fold)
        except Exception as error:  # whatever a compiler, a driver or an installation throws
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"{type(error).__name__}: {reason[:200]}"
        if problem is not None:
            return problem
    return None


def _folds(block: nn.Module) -> bool:
    holder = nn.ModuleList([copy.deepcopy(block)])
    fuse(holder)
    return isinstance(holder[0], FoldedBlock)


def _block_problem(
    block: nn.Module, device: torch.device, dtype: torch.dtype, fold: Callable[[nn.Module], object]
) -> str | None:
    generator = torch.Generator().manual_seed(0)
    block = copy.deepcopy(block).to(device, torch.float32).train()
    cast(Any, block).drop_path = nn.Identity()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            if parameter.ndim > 1:
                parameter.div_(parameter[0].numel() ** 0.5)
    size = (_IMAGES, len(cast(Any, block).norm.weight), _HEIGHT, _WIDTH)
    x, grad = (torch.randn(size, generator=generator).to(device) for _ in range(2))
    exact = _block_results(copy.deepcopy(block).double(), x.double(), grad.double(), dtype)
    holder = nn.ModuleList([copy.deepcopy(block)])
    fold(holder)
    plain, folded = (_block_results(b, x, grad, dtype) for b in (block, holder[0]))
    scales = {name: float(values.abs().max()) for name, values in exact.items()}
    for name, right in exact.items():
        # Batch norm takes away what a mixer's bias adds: no gradient is left to compare with.
        no_gradient = "token_mixer" in name and name.endswith("bias")
        scale = scales["norm.bias"] if no_gradient else scales[name]
        off = float((folded[name].double() - right).abs().max()) / scale
        usual = float((plain[name].double() - right).abs().max()) / scale
        # Written so that NaN is a disagreement.
        if not off <= 3 * usual + _TOLERANCE[dtype]:
            return (
                f"{name} of a folded block of {size[1]} channels is off by {off:.1e} of its "
                f"largest value, of a plain one by {usual:.1e}"
            )
    return None


def _block_results(
    block: nn.Module, x: Tensor, grad: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The output, and the gradients of the input and of all parameters, by name."""
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    half = dtype if dtype != torch.float32 and x.dtype != torch.float64 else None
    with torch.enable_grad(), torch.autocast(x.device.type, half, enabled=half is not None):
        out = block(x)
    names, parameters = zip(*block.named_parameters(), strict=True)
    grads = torch.autograd.grad(out, [x, *parameters], grad.to(out.dtype))
    return dict(zip(("output", "input", *names), (out.detach(), *grads), strict=True))
