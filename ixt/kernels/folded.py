"""InceptionNeXt's block with batch norm, layer scale and drop-path folded into its MLP.

Between the matrix products one pass is left where timm's block has three or four, and no pass
computes statistics. Parameters, their names and the running statistics stay timm's. The algebra is
in `fold.py`.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from timm.layers import DropPath
from timm.models.inception_next import MetaNeXtBlock
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ixt.kernels.bands import bands_input_grad, bands_moments, bands_weight_grad
from ixt.kernels.block_mlp import Between, BlockMlp, NormGrad
from ixt.kernels.fold import fold_weights, unfold_weights, update_averages
from ixt.kernels.gemm import CUBLAS, Tiles
from ixt.kernels.modules import FusedMixer, MatmulMlp
from ixt.kernels.operators import wide_dtype
from ixt.kernels.residual import HalfResidualBlock
from ixt.recipe.model import GemmProduct


@dataclass(frozen=True)
class _Plan:
    """What a pass through a block depends on besides tensors."""

    dilation: int
    eps: float
    stats: bool
    """Whether batch norm takes this batch's statistics, not its running ones."""
    dtype: torch.dtype
    """Type of everything between the residual sums."""
    stream: torch.dtype
    """Type of the result."""
    tiles: Tiles
    """How the matrix products that Triton computes are done."""
    gain: float
    """What makes up for the paths that are dropped."""


class _Folded(torch.autograd.Function):
    """The block as a function of all its tensors; see `FoldedBlock`."""

    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, x: Tensor, shift: Tensor, variance: Tensor, scale: Tensor | None,
        weight: Tensor, bias: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor,
        gamma: Tensor | None, *bands: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return the block's output, and the moments of the shifted input of its batch norm."""
        half = len(bands) // 2
        filters, biases = bands[:half], bands[half:]
        inputs, moments = bands_moments(
            x, filters, biases, plan.dilation, shift, plan.stats, plan.dtype
        )
        if not plan.stats:
            still = variance.to(wide_dtype(plan.dtype))
            moments = torch.stack([torch.zeros_like(still), still, still])
        small1, offset1, small2, offset2 = fold_weights(
            w1.flatten(1), b1, w2.flatten(1), b2, gamma, plan.gain, moments, weight, bias, plan.eps,
            plan.dtype,
        )  # fmt: skip
        mlp = BlockMlp(small1, offset1, small2, scale, plan.tiles)
        out, between = mlp.forward(rows(inputs), offset2, rows(x), plan.stream)
        ctx.plan, ctx.num_bands = plan, half
        ctx.save_for_backward(
            x, inputs, *between, moments, small1, offset1, small2, scale, weight, bias, w1, w2, b2,
            gamma, *bands,
        )  # fmt: skip
        ctx.mark_non_differentiable(moments)
        ctx.set_materialize_grads(False)
        return image(out, x), moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Any, ...]:
        """Return the gradients of what `forward` takes."""
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        plan: _Plan = ctx.plan
        (x, inputs, hidden, active, moments, small1, offset1, small2, scale, weight, bias, w1, w2,
         b2, gamma, *bands) = ctx.saved_tensors  # fmt: skip
        filters, biases = bands[: ctx.num_bands], bands[ctx.num_bands :]
        grad = grad.contiguous(memory_format=torch.channels_last)
        mlp = BlockMlp(small1, offset1, small2, scale, plan.tiles)
        operands = (rows(grad), rows(inputs))
        small = mlp.weight_grads(*operands, Between(hidden, active))
        d_w1, d_w2, d_b2, d_gamma, d_weight, d_bias, sums = unfold_weights(
            *small[:4], small1, w1.flatten(1), w2.flatten(1), b2, gamma, plan.gain,
            moments, weight, bias, plan.eps,
        )  # fmt: skip
        norm = NormGrad(sums, moments, plan.eps) if plan.stats else None
        mixed = image(mlp.input_grad(*operands, small.hidden, norm), inputs)
        d_x = None
        if ctx.needs_input_grad[1]:
            d_x = bands_input_grad(mixed, filters, plan.dilation, grad).to(x.dtype)
        d_bands = bands_weight_grad(x, mixed, filters, biases, plan.dilation)
        return (
            *(None, d_x, None, None, None),
            *(d_weight, d_bias, d_w1.reshape(w1.shape), small.b1.to(d_b2.dtype)),
            *(d_w2.reshape(w2.shape), d_b2, None if gamma is None else d_gamma),
            *d_bands,
        )


def rows(x: Tensor) -> Tensor:
    """(N, C, H, W) in NHWC as a matrix with a row per pixel; a view."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def image(rows: Tensor, like: Tensor) -> Tensor:
    """A matrix with a row per pixel as an image of the size of another; a view."""
    size = (like.shape[0], *like.shape[2:], rows.shape[1])
    return rows.reshape(size).permute(0, 3, 1, 2)


class FoldedBlock(nn.Module):
    """timm's MetaNeXtBlock in fewer passes; takes and gives (N, C, H, W).

    Images in NHWC go through the folded weights; others, the rare batch of one pixel, and a batch
    norm that was exchanged later, through the layers one after another, as in timm's block.
    """

    def __init__(self, block: Any) -> None:
        """Take over the layers of a block for which `is_foldable` holds."""
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        self.gamma = block.gamma
        self.half_stream = isinstance(block, HalfResidualBlock)
        self.takes_rows = getattr(block, "takes_rows", False)
        self.unfolded: Callable[[nn.Module, Tensor], Tensor] = type(block).forward
        self.tiles = CUBLAS
        self.train(block.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream with the block's branch added."""
        layers = cast(Any, self)
        norm = layers.norm
        stats = norm.training
        dtype, stream = self._types(x)
        one_pixel = x.numel() == x.shape[1]
        nhwc = x.is_contiguous(memory_format=torch.channels_last)
        if not nhwc or (stats and one_pixel) or type(norm) is not nn.BatchNorm2d:
            return self.unfolded(self, x)
        mixer, mlp = layers.token_mixer, layers.mlp
        tiles = self.tiles.of_type(dtype)
        paths, gain = self._paths(x)
        plan = _Plan(mixer.dilation, norm.eps, stats, dtype, stream, tiles, gain)
        filters, biases = mixer.weights()
        with torch.autocast(x.device.type, enabled=False):
            out, moments = _Folded.apply(
                plan, x, norm.running_mean, norm.running_var, paths,
                norm.weight, norm.bias, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight,
                mlp.fc2.bias, self.gamma, *filters, *biases,
            )  # fmt: skip
            if stats:
                _update(norm, moments)
        return cast(Tensor, out)

    def _types(self, x: Tensor) -> tuple[torch.dtype, torch.dtype]:
        """The type inside the block, and that of the residual stream after it."""
        device, dtype = x.device.type, x.dtype
        if torch.is_autocast_enabled(device) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
        if self.half_stream:
            return dtype, dtype
        branch = dtype if self.gamma is None else torch.promote_types(dtype, self.gamma.dtype)
        return dtype, torch.promote_types(branch, x.dtype)

    def _paths(self, x: Tensor) -> tuple[Tensor | None, float]:
        """Whether drop-path keeps each image's branch, 0 or 1: (N,), None for all; and its gain."""
        drop = cast(Any, self).drop_path
        if not isinstance(drop, DropPath) or not drop.training or not drop.drop_prob:
            return None, 1.0
        keep = 1.0 - drop.drop_prob
        # The same draw as timm's, so that the same paths are dropped.
        kept = x.new_empty(x.shape[0], dtype=wide_dtype(x.dtype)).bernoulli_(keep)
        return kept, 1.0 / keep if keep > 0.0 and drop.scale_by_keep else 1.0


@torch.no_grad()
def _update(norm: Any, moments: Tensor) -> None:
    """Move running statistics as batch norm does; its input was shifted by the running mean."""
    running = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    update_averages(moments, *running, norm.momentum)


def is_foldable(block: nn.Module) -> bool:
    """Whether `FoldedBlock` computes a block: fused mixer, batch norm with averages, exact GELU."""
    if not isinstance(block, MetaNeXtBlock | HalfResidualBlock):
        return False
    layers: Sequence[Any] = [getattr(block, n, None) for n in ("token_mixer", "norm", "mlp")]
    mixer, norm, mlp = layers
    return (
        isinstance(mixer, FusedMixer)
        and isinstance(mlp, MatmulMlp)
        and type(norm) is nn.BatchNorm2d
        and (norm.affine and norm.track_running_stats and norm.momentum is not None)
        and (isinstance(mlp.act, nn.GELU) and mlp.act.approximate == "none")
        and (not mlp.drop.p and mlp.fc1.bias is not None and mlp.fc2.bias is not None)
    )


def channels_of(block: nn.Module) -> int:
    """The channels of a block's input and output."""
    return len(cast(Any, block).norm.weight)


def products_in(block: nn.Module) -> tuple[GemmProduct, ...]:
    """The products of a block that a pass follows: no layer norm's gradient is one."""
    is_batch_norm = isinstance(cast(Any, block).norm, nn.BatchNorm2d)
    return tuple(name for name in get_args(GemmProduct) if is_batch_norm or name != "fc1_grad")
