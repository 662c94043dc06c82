"""ConvNeXt's block with layer norm's weights, layer scale and drop-path folded into its MLP.

Layer norm's statistics are those of a pixel, so a pass of PyTorch still computes them; its weight
and bias, another linear layer, go into fc1 by the algebra of `fold.py`, as those of a batch norm
with mean 0 and variance 1. Parameters and their names stay timm's.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import GELU, Mlp
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ixt.kernels.block_mlp import Between, BlockMlp
from ixt.kernels.fold import fold_weights, unfold_weights
from ixt.kernels.folded import FoldedBlock, image, rows
from ixt.kernels.gemm import Tiles
from ixt.kernels.modules import FusedMixer
from ixt.kernels.operators import wide_dtype
from ixt.kernels.residual import HalfResidualBlock


class _Branch(torch.autograd.Function):
    """The stream with the MLP of normalised rows added, as a function of all its tensors."""

    @staticmethod
    def forward(
        ctx: Any, tiles: Tiles, stream: torch.dtype, gain: float, t: Tensor, x: Tensor,
        scale: Tensor | None, weight: Tensor, bias: Tensor, w1: Tensor, b1: Tensor, w2: Tensor,
        b2: Tensor, gamma: Tensor | None, moments: Tensor,
    ) -> Tensor:  # fmt: skip
        """Return (N, C, H, W) of type `stream`; t are the pixels of x in rows."""
        norm = (moments, weight, bias)
        small1, offset1, small2, offset2 = fold_weights(
            w1, b1, w2, b2, gamma, gain, *norm, 0.0, t.dtype
        )
        mlp = BlockMlp(small1, offset1, small2, scale, tiles)
        out, between = mlp.forward(t, offset2, rows(x), stream)
        ctx.tiles, ctx.gain, ctx.dtype = tiles, gain, x.dtype
        ctx.save_for_backward(t, *between, small1, offset1, small2, scale, *norm, w1, w2, b2, gamma)
        return image(out, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """Return the gradients of what `forward` takes."""
        (t, hidden, active, small1, offset1, small2, scale, moments, weight, bias, w1, w2, b2,
         gamma) = ctx.saved_tensors  # fmt: skip
        grad = grad.contiguous(memory_format=torch.channels_last)
        mlp = BlockMlp(small1, offset1, small2, scale, ctx.tiles)
        small = mlp.weight_grads(rows(grad), t, Between(hidden, active))
        d_t = mlp.input_grad(rows(grad), t, small.hidden, None)
        d_w1, d_w2, d_b2, d_gamma, d_weight, d_bias, _ = unfold_weights(
            *small[:4], small1, w1, w2, b2, gamma, ctx.gain, moments, weight, bias, 0.0
        )
        return (
            *(None, None, None, d_t, grad.to(ctx.dtype), None),
            *(d_weight, d_bias, d_w1, small.b1.to(d_b2.dtype), d_w2, d_b2),
            *(None if gamma is None else d_gamma, None),
        )


class FoldedConvNeXtBlock(FoldedBlock):
    """timm's ConvNeXtBlock in fewer passes; takes and gives (N, C, H, W).

    Images in NHWC go through the folded weights; others through the layers one after another.
    """

    use_conv_mlp = False

    def __init__(self, block: Any) -> None:
        """Take over the layers of a block for which `is_foldable_convnext` holds."""
        super().__init__(block)
        one = torch.ones_like(block.norm.weight, dtype=wide_dtype(block.norm.weight.dtype))
        self.register_buffer("moments", torch.stack([0 * one, one]).detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream with the block's branch added."""
        if not x.is_contiguous(memory_format=torch.channels_last):
            return self.unfolded(self, x)
        layers = cast(Any, self)
        norm, mlp = layers.norm, layers.mlp
        dtype, stream = self._types(x)
        mixed, (paths, gain) = rows(layers.conv_dw(x)), self._paths(x)
        with torch.autocast(x.device.type, enabled=False):
            t = F.layer_norm(mixed.to(dtype), mixed.shape[1:], None, None, norm.eps)
            out = _Branch.apply(
                self.tiles.of_type(dtype), stream, gain, t, x, paths, norm.weight, norm.bias,
                mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias, self.gamma,
                layers.moments,
            )  # fmt: skip
        return cast(Tensor, out)


def is_foldable_convnext(block: nn.Module) -> bool:
    """Whether `FoldedConvNeXtBlock` computes a block: fused mixer, layer norm, exact GELU."""
    if not isinstance(block, ConvNeXtBlock | HalfResidualBlock):
        return False
    mixer, norm, mlp, shortcut = (
        cast(Any, getattr(block, name, None)) for name in ("conv_dw", "norm", "mlp", "shortcut")
    )
    return (
        isinstance(mixer, FusedMixer)
        and (isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None)
        and (isinstance(mlp, Mlp) and isinstance(mlp.fc1, nn.Linear))
        and (isinstance(mlp.norm, nn.Identity) and isinstance(shortcut, nn.Identity))
        and (isinstance(mlp.act, GELU) and not mlp.drop1.p and not mlp.drop2.p)
        and (mlp.fc1.bias is not None and mlp.fc2.bias is not None)
    )
