"""Who computes the products of folded blocks: measured where the recipe says auto, once per run.

Triton computes those that it does faster than cuBLAS and a pass of its own. The choice changes last
bits, so it is made once, by one process for all, and written down.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast, get_args

import torch
import torch.distributed as dist
from timm.models.convnext import ConvNeXtBlock
from timm.models.inception_next import MetaNeXtBlock
from torch import nn

from ixt.distributed.arithmetic import set_math
from ixt.distributed.group import join_group
from ixt.kernels.apply import DTYPES
from ixt.kernels.block_mlp import BlockMlp, NormGrad
from ixt.kernels.folded import channels_of, products_in
from ixt.kernels.gemm import Tiles, contract, expand, expand_grad, inputs_grad
from ixt.kernels.selfcheck import blocks_to_fold
from ixt.kernels.shapes import TILES, fits_whole
from ixt.models import create_empty_model, recipe_arguments
from ixt.recipe import Recipe
from ixt.recipe.model import GemmChoice, GemmProduct, GemmTile, MlpWay

CUBLAS = "cublas"
Timer = Callable[[Callable[[], object]], float]
"""Gives the median milliseconds of one call."""

# Times vary by about as much between runs: for less, cuBLAS stays.
_LEAST_GAIN = 0.02
_MOST_ROWS = 2**18  # more take longer by as much, and memory


def choose_products(recipe: Recipe, stored: Recipe | None) -> Recipe:
    """Put a choice where the recipe says model.fused_gemm: auto. Every process must call it.

    Triton computes a product where the first process measures it to be faster; cuBLAS does all of
    them without a CUDA device.

    The recipe's micro-batch is resolved. A run to continue keeps the choice in its `stored` recipe.
    """
    if recipe.model.fused_gemm != "auto":
        return recipe
    choice: GemmChoice = stored.model.fused_gemm if stored is not None else "auto"
    if choice == "auto":
        choice = _measure_once(recipe) if torch.cuda.is_available() else "cublas"
    return recipe.with_(model={"fused_gemm": choice})


def _measure_once(recipe: Recipe) -> GemmChoice:
    """What the first of all processes measures, in each of them."""
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    choice = _measure(recipe) if os.environ.get("RANK", "0") == "0" else "cublas"
    return choice if os.environ.get("WORLD_SIZE", "1") == "1" else _of_first(choice)


def _of_first(choice: GemmChoice) -> GemmChoice:
    """The choice of the first process; joins them, as Accelerate does if they are not yet."""
    if not dist.is_initialized():
        join_group()
    shared = [choice]
    dist.broadcast_object_list(shared)
    return shared[0]


def _measure(recipe: Recipe) -> GemmChoice:
    settings, engine = recipe.model, recipe.engine
    set_math(recipe, cuda=True)
    dtype = DTYPES[engine.precision]
    found = products(
        create_empty_model(settings.name, **recipe_arguments(settings)),
        recipe.augment.image_size,
        engine.micro_batch_size,
        dtype,
        dtype if engine.half_residual else torch.float32,
        torch.device("cuda"),
    )
    times = {p.name: product_times(p, time_on_device) for p in found}
    torch.cuda.empty_cache()
    return choice_from(times)


def choice_from(times: Mapping[str, Mapping[str, float]]) -> GemmChoice:
    """A recipe's value, from the milliseconds of each product by way."""
    best = {product: fastest(by_way) for product, by_way in times.items()}
    for whole in (name for name in times if name.startswith("mlp-")):
        named = (whole.replace("mlp", part) for part in get_args(GemmProduct))
        parts = [part for part in named if part in times]
        saved = sum(times[part][CUBLAS] - times[part][best[part]] for part in parts)
        # A whole MLP has to beat products of which each is computed in the best way.
        best[whole] = fastest({**times[whole], CUBLAS: times[whole][CUBLAS] - saved})
        if best[whole] != CUBLAS:
            best |= dict.fromkeys(parts, CUBLAS)
    choice = {product: way for product, way in best.items() if way != CUBLAS}
    return cast(GemmChoice, choice) if choice else "cublas"


@dataclass(frozen=True)
class BlockSize:
    """What the time of a block's products depends on."""

    channels: int
    hidden: int
    pixels: int
    """Pixels of an image there."""
    products: tuple[GemmProduct, ...] = get_args(GemmProduct)
    """Those that a pass follows."""


@dataclass(frozen=True)
class Product:
    """A product of a block, or its MLP both ways round, with random operands; the work in it."""

    name: str
    """Name as recipes write it, e.g. fc1-96."""
    ways: tuple[str, ...]
    """The tiles of a product; of an MLP, whole."""
    run: Callable[[Any], object]
    """Compute it in one of these ways, or by cuBLAS with None."""
    moved_bytes: int
    """Its operands and results, once each."""
    flops: int


def block_sizes(model: nn.Module, side: int) -> list[BlockSize]:
    """The sizes of a model's blocks that `fuse` folds, each once, in its order.

    The model is fresh, on the meta device, and of no further use. Images are squares of `side`
    pixels.
    """
    found: dict[BlockSize, None] = {}

    def note(block: Any, inputs: tuple[torch.Tensor]) -> None:
        pixels = inputs[0].shape[2] * inputs[0].shape[3]
        hidden = len(block.mlp.fc1.weight)
        found[BlockSize(channels_of(block), hidden, pixels, products_in(block))] = None

    for block in model.modules():
        is_block = isinstance(block, MetaNeXtBlock | ConvNeXtBlock)
        if is_block and blocks_to_fold(nn.ModuleList([block])):
            block.register_forward_pre_hook(note)
    with torch.no_grad():
        model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return list(found)


def make_product(
    name: GemmProduct,
    size: BlockSize,
    images: int,
    dtype: torch.dtype,
    stream: torch.dtype,
    device: torch.device,
) -> Product:
    """Draw operands of a product, as they are while a block trains with drop-path.

    All are of `dtype` but the residual `stream`.
    """
    rows, channels, hidden = images * size.pixels, size.channels, size.hidden
    draw = partial(torch.randn, device=device, dtype=dtype)
    scale = torch.ones(images, device=device)
    first, second = draw(hidden, channels), draw(channels, hidden)
    run: Callable[[GemmTile | None], object]
    if name == "fc1":
        run = partial(expand, draw(rows, channels), first, draw(hidden), scale)
    elif name == "fc2_grad":
        grad = draw(rows, channels)
        run = partial(expand_grad, grad, grad, second, draw(rows, hidden), scale)
    elif name == "fc1_grad":
        norm = _norm_grad(channels, device)
        run = partial(inputs_grad, draw(rows, hidden), first, draw(rows, channels), *norm)
    else:
        x, bias = draw(rows, channels, dtype=stream), torch.zeros(channels, device=device)
        run = partial(contract, draw(rows, hidden), second, x, bias, scale, stream)
    wide, element, lifted = rows * hidden, dtype.itemsize, rows * channels * stream.itemsize
    narrow = rows * channels * element
    beside = {"fc2": 2 * lifted, "fc1_grad": 2 * narrow}.get(name, narrow + wide * element)
    moved = wide * element + beside
    weights, flops = channels * hidden * element, 2 * rows * channels * hidden
    return Product(f"{name}-{channels}", tuple(TILES), run, moved + weights, flops)


def make_mlp(
    size: BlockSize, images: int, dtype: torch.dtype, stream: torch.dtype, device: torch.device
) -> Product:
    """Draw operands of an MLP's forward and backward pass, as `make_product` does of a product."""
    rows, channels, hidden = images * size.pixels, size.channels, size.hidden
    draw = partial(torch.randn, device=device, dtype=dtype)
    t, b2 = draw(rows, channels), torch.zeros(channels, device=device)
    x, grad = (draw(rows, channels, dtype=stream) for _ in range(2))
    weights = (draw(hidden, channels), draw(hidden), draw(channels, hidden))
    scale = torch.ones(images, device=device)
    norm = _norm_grad(channels, device) if "fc1_grad" in size.products else None

    def run(way: MlpWay | None) -> object:
        mlp = BlockMlp(*weights, scale, Tiles(mlp=way))
        out, between = mlp.forward(t, b2, x, stream)
        grads = mlp.weight_grads(grad, t, between)
        return out, grads[:4], mlp.input_grad(grad, t, grads.hidden, norm)

    # The input both ways, its gradient; the stream, its sum, its gradient; weights and gradients.
    moved = rows * channels * (3 * dtype.itemsize + 3 * stream.itemsize)
    moved += 2 * channels * hidden * (2 * dtype.itemsize + 4)
    flops = 12 * rows * channels * hidden
    return Product(f"mlp-{channels}", get_args(MlpWay), run, moved, flops)


def _norm_grad(channels: int, device: torch.device) -> NormGrad:
    """What batch norm's backward adds, with sums and moments of 1."""
    ones = torch.ones(2, channels, device=device)
    return NormGrad(ones, ones, 0.0)


def product_times(product: Product, timer: Timer) -> dict[str, float]:
    """Milliseconds of a product by cuBLAS and in each way that the device can run."""
    times = {CUBLAS: timer(partial(product.run, None))}
    for way in product.ways:
        try:
            times[way] = timer(partial(product.run, way))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a compiler's, for want of shared memory or registers
            continue
    return times


def fastest(times: Mapping[str, float]) -> str:
    """The key of a product's times that wins: cuBLAS unless it is clearly slower."""
    best = min(times, key=lambda name: times[name])
    return best if times[best] < (1 - _LEAST_GAIN) * times[CUBLAS] else CUBLAS


def products(
    model: nn.Module,
    side: int,
    images: int,
    dtype: torch.dtype,
    stream: torch.dtype,
    device: torch.device,
) -> Iterator[Product]:
    """The different products and MLPs of a model's blocks, each drawn when it is asked for.

    The model is as for `block_sizes`, types as for `make_product`. There are fewer than `images` in
    a batch where these would take much memory.
    """
    for size in block_sizes(model, side):
        few = max(1, min(images, _MOST_ROWS // size.pixels))
        for name in size.products:
            yield make_product(name, size, few, dtype, stream, device)
        if fits_whole(size.channels) and dtype != torch.float32:
            yield make_mlp(size, few, dtype, stream, device)


def time_on_device(call: Callable[[], object], warmup: int = 10, rep: int = 50) -> float:
    """Median milliseconds of a call on the CUDA device, with a cold L2 cache.

    `warmup` and `rep` are milliseconds, too.
    """
    from triton.testing import do_bench

    return float(do_bench(call, warmup=warmup, rep=rep, return_mode="median"))
