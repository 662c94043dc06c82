"""Fused layers put into a model of timm's."""

from __future__ import annotations

from torch import nn

from ixt.kernels.folded import FoldedBlock, channels_of, is_foldable
from ixt.kernels.folded_convnext import FoldedConvNeXtBlock, is_foldable_convnext
from ixt.kernels.gemm import chosen_tiles
from ixt.kernels.modules import fuse_mixers
from ixt.kernels.residual import replace
from ixt.recipe.model import GemmChoice


def fuse(model: nn.Module, gemm: GemmChoice = "cublas") -> int:
    """Put fused mixers into a model, and fold the blocks around them where that is possible.

    Call `residual.keep_residual_half` first, if at all.

    `gemm` says who computes the products of folded blocks, as in a recipe.

    Returns:
        How many mixers there are.
    """
    found = fuse_mixers(model)
    replace(model, is_foldable, FoldedBlock)
    replace(model, is_foldable_convnext, FoldedConvNeXtBlock)
    for block in model.modules():
        if isinstance(block, FoldedBlock):
            block.tiles = chosen_tiles(gemm, channels_of(block))
    return found
