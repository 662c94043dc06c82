"""Fused layers on a CUDA device: `pytest -m gpu tests/kernels`."""

from __future__ import annotations

import copy
from functools import partial
from typing import get_args

import pytest
import torch
from timm.models.inception_next import InceptionDWConv2d
from torch import nn
from torch.utils._pytree import tree_leaves

from ixt.kernels.bands import depthwise_bands
from ixt.kernels.folded import channels_of
from ixt.kernels.fuse import fuse
from ixt.kernels.product_choice import BlockSize, make_mlp, make_product
from ixt.kernels.residual import keep_residual_half
from ixt.kernels.selfcheck import blocks_to_fold, disagreement, mixers_to_fuse
from ixt.kernels.shapes import TILES, fits_whole
from ixt.models import create_model
from ixt.models.variants import PartialDepthwiseConv2d
from ixt.recipe.model import GemmProduct, GemmTile, MlpWay

pytestmark = pytest.mark.gpu

ORDERS = (torch.contiguous_format, torch.channels_last)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CUDA = torch.device("cuda")
ODD = (
    InceptionDWConv2d(17, square_kernel_size=5, band_kernel_size=7, branch_ratio=0.3),
    InceptionDWConv2d(12, square_kernel_size=3, band_kernel_size=3, branch_ratio=0.34, dilation=2),
    PartialDepthwiseConv2d(nn.Conv2d(21, 21, 7, padding=3, groups=21), 0.62),
)
MODELS = ("inceptionnext_atto", "inceptionnext_tiny", "inceptionnext_base", "convnext_tiny",
          "convnext_tiny_k5", "convnext_tiny_k3", "convnext_tiny_k3_par3_8")  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_mixers_of_the_paper_agree_with_float64(
    dtype: torch.dtype, order: torch.memory_format
) -> None:
    for name in MODELS:
        mixers = mixers_to_fuse(create_model(name))
        assert disagreement((*mixers, *ODD), CUDA, dtype, order) is None


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_folded_blocks_of_the_paper_agree_with_float64(dtype: torch.dtype, half: bool) -> None:
    for size in ("atto", "tiny", "base"):
        model = create_model(f"inceptionnext_{size}")
        if half and dtype != torch.float32:
            keep_residual_half(model)
        blocks = blocks_to_fold(model)
        assert len(blocks) == 4
        assert disagreement(blocks, CUDA, dtype, torch.channels_last) is None


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_triton_in_blocks_of_the_paper_agree_with_float64(
    dtype: torch.dtype, tile: GemmTile
) -> None:
    for size in ("atto", "tiny", "base"):
        model = create_model(f"inceptionnext_{size}")
        blocks = blocks_to_fold(model)
        names = [f"{p}-{channels_of(b)}" for b in blocks for p in get_args(GemmProduct)]
        fold = partial(fuse, gemm=dict.fromkeys(names, tile))
        assert disagreement(blocks, CUDA, dtype, torch.channels_last, fold) is None


@pytest.mark.parametrize("way", get_args(MlpWay))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_whole_mlps_in_blocks_of_the_paper_agree_with_float64(
    dtype: torch.dtype, way: MlpWay
) -> None:
    for name in (*MODELS[:3], "convnext_tiny"):
        blocks = [b for b in blocks_to_fold(create_model(name)) if fits_whole(channels_of(b))]
        fold = partial(fuse, gemm={f"mlp-{channels_of(b)}": way for b in blocks})
        assert blocks
        assert disagreement(blocks, CUDA, dtype, torch.channels_last, fold) is None


@pytest.mark.parametrize("size", [BlockSize(96, 384, 3136), BlockSize(128, 512, 785)])
def test_whole_mlps_are_cublass_and_the_same_bits_every_time(size: BlockSize) -> None:
    mlp = make_mlp(size, 7, torch.bfloat16, torch.bfloat16, CUDA)
    plain = tree_leaves(mlp.run(None))
    for way in mlp.ways:
        first, again = mlp.run(way), mlp.run(way)
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        for found, right in zip(tree_leaves(first), plain, strict=True):
            assert (found.double() - right.double()).norm() <= 0.02 * right.double().norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_triton_are_cublass_and_the_same_bits_every_time(dtype: torch.dtype) -> None:
    for size in (BlockSize(96, 384, 3136), BlockSize(320, 960, 49), BlockSize(17, 33, 35)):
        for name in get_args(GemmProduct):
            product = make_product(name, size, 7, dtype, dtype, CUDA)
            plain = product.run(None)
            for tile in ("128x64", "128x64s", "64x64"):
                first, again = product.run(tile), product.run(tile)
                torch.testing.assert_close(first, again, rtol=0, atol=0)
                for found, right in zip(tree_leaves(first), tree_leaves(plain), strict=True):
                    assert (found.double() - right.double()).norm() <= 0.02 * right.double().norm()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_fused_model_trains_as_a_plain_one(order: torch.memory_format, compiled: bool) -> None:
    model = create_model("inceptionnext_atto", num_classes=10).cuda().to(memory_format=order)
    fused = copy.deepcopy(model)
    assert fuse(fused) == 12
    if compiled:
        fused.compile()
    images = torch.randn(16, 3, 224, 224, device="cuda").contiguous(memory_format=order)
    losses = []
    for net in (model, fused):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        labels = torch.arange(16, device="cuda") % 10
        for _ in range(10):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                logits = net(images)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_gradients_of_weights_are_the_same_bits_every_time() -> None:
    sizes = ((16, 96, 56, 56), (12, 1, 3, 3), (12, 1, 1, 11), (12, 1, 11, 1), (12,), (12,), (12,))
    leaves = [torch.randn(size, device="cuda").requires_grad_() for size in sizes]
    grad = torch.randn(sizes[0], device="cuda")

    def grads() -> tuple[torch.Tensor, ...]:
        out = depthwise_bands(leaves[0], leaves[1:4], leaves[4:], 1)
        return torch.autograd.grad(out, leaves, grad)

    assert all(torch.equal(a, b) for a, b in zip(grads(), grads(), strict=True))


def test_evaluation_in_bf16_is_as_near_to_float64_as_timms() -> None:
    model = create_model("inceptionnext_atto", num_classes=10).cuda().eval()
    model = model.to(memory_format=torch.channels_last)
    fused = copy.deepcopy(model)
    fuse(fused)
    images = torch.randn(8, 3, 224, 224, device="cuda").contiguous(
        memory_format=torch.channels_last
    )
    with torch.no_grad():
        right = copy.deepcopy(model).double()(images.double())
        with torch.autocast("cuda", torch.bfloat16):
            off, usual = ((net(images).double() - right).abs().max() for net in (fused, model))
    assert off <= 1.5 * usual + 1e-3
