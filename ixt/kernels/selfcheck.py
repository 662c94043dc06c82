"""Whether fused operators compute on this device what plain PyTorch computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ixt.kernels.modules import is_fusible
from ixt.kernels.ops import inception_mix

_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Largest error over the largest value; a result's last bit in fp16 and bf16."""
_NAMES = (
    "output",
    "gradient of the input",
    *(
        f"gradient of the {branch} {part}"
        for branch in ("square", "row", "column")
        for part in ("filters", "biases")
    ),
)
# Not a multiple of any tile, more than one tile, a width unlike the height.
_IMAGES, _HEIGHT, _WIDTH = 2, 14, 11

Mix = Callable[..., Tensor]


@dataclass(frozen=True)
class MixerShape:
    """What the compiled kernels of a mixer depend on."""

    channels: int
    groups: int
    square: int
    band: int
    dilation: int


def mixer_shapes(model: nn.Module) -> list[MixerShape]:
    """The different mixers of a model that can be fused, in its order."""
    shapes: list[MixerShape] = []
    mixer: Any
    for mixer in model.modules():
        if is_fusible(mixer):
            square, row = mixer.dwconv_hw, mixer.dwconv_w
            shapes.append(
                MixerShape(
                    channels=sum(mixer.split_indexes),
                    groups=square.in_channels,
                    square=square.kernel_size[0],
                    band=row.kernel_size[1],
                    dilation=square.dilation[0],
                )
            )
    return list(dict.fromkeys(shapes))


def disagreement(
    shapes: Iterable[MixerShape],
    device: torch.device,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    mix: Mix = inception_mix,
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
        for name, found, expected in zip(_NAMES, fused, plain, strict=True):
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
    groups, side, band = shape.groups, shape.square, shape.band
    filters = ((groups, 1, side, side), (groups, 1, 1, band), (groups, 1, band, 1))
    weights = [draw(*size) for filter_size in filters for size in (filter_size, (groups,))]
    fused = _results(mix, x, weights, grad, shape.dilation)
    # In float64 the operator is plain PyTorch on every device.
    wide = [tensor.double() for tensor in weights]
    return fused, _results(inception_mix, x.double(), wide, grad.double(), shape.dilation)


def _results(
    mix: Mix, x: Tensor, weights: list[Tensor], grad: Tensor, dilation: int
) -> list[Tensor]:
    """The output, and the gradients of input and weights."""
    inputs: list[Any] = [tensor.detach().requires_grad_() for tensor in (x, *weights)]
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        out = mix(*inputs, dilation)
        return [out.detach(), *torch.autograd.grad(out, inputs, grad)]
