"""What a recipe says about kernels, done to a model."""

from __future__ import annotations

import logging
from functools import partial

import torch
from torch import nn

from ixt.errors import ModelError
from ixt.kernels.folded import channels_of, products_in
from ixt.kernels.fuse import fuse
from ixt.kernels.gemm import CUBLAS, chosen_tiles
from ixt.kernels.residual import keep_residual_half
from ixt.kernels.selfcheck import blocks_to_fold, disagreement, mixers_to_fuse
from ixt.kernels.shapes import fits_whole
from ixt.recipe import Recipe
from ixt.recipe.model import GemmChoice

_log = logging.getLogger("ixt")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def prepare_model(model: nn.Module, recipe: Recipe, device: torch.device) -> None:
    """Put in the layers that the recipe asks for, in place.

    The state dict keeps its names and shapes. On a CUDA device fused layers are first compared
    with plain ones; if they disagree, or do not compile, a warning says so and the model stays as
    it is.

    The model is fresh from `create_model`, and will run on `device`.

    Raises:
        ModelError: the model has no layer, or no product, that a setting acts on.
    """
    name, engine = recipe.model.name, recipe.engine
    wanted = recipe.model.fused
    mixers = mixers_to_fuse(model) if wanted else []
    if engine.half_residual and not keep_residual_half(model):
        raise ModelError(
            f"engine.half_residual: {name} has no layer scale that lifts its residual stream; "
            "set it to false"
        )
    if wanted is True and not mixers:
        raise ModelError(
            f"model.fused: {name} has no depthwise layer that the kernels compute; "
            "set it to false or auto"
        )
    gemm = recipe.model.fused_gemm
    if gemm not in ("cublas", "auto"):
        _check_known(gemm, model, name)
    if not mixers or (wanted == "auto" and (device.type != "cuda" or engine.zero_stage == 3)):
        return
    if device.type == "cuda":
        order = torch.channels_last if engine.channels_last else torch.contiguous_format
        dtype = DTYPES[engine.precision]
        blocks = blocks_to_fold(model) if engine.channels_last else []
        problem = disagreement([*mixers, *blocks], device, dtype, order)
        if problem is not None:
            _log.warning(
                "model.fused: plain layers instead, on %s the fused ones are not right: %s",
                torch.cuda.get_device_name(device),
                problem,
            )
            return
        gemm = _checked(gemm, model, device, dtype)
    fuse(model, gemm)


def _check_known(gemm: GemmChoice, model: nn.Module, name: str) -> None:
    """Refuse a choice for products that the model does not have."""
    blocks = [(channels_of(block), products_in(block)) for block in blocks_to_fold(model)]
    names = [f"{product}-{width}" for width, found in blocks for product in found]
    names += [f"mlp-{width}" for width, _ in blocks if fits_whole(width)]
    known = list(dict.fromkeys(names))
    if not known:
        raise ModelError(
            f"model.fused_gemm: {name} has no block that is folded; set it to cublas or auto"
        )
    unknown = [] if isinstance(gemm, str) else [key for key in gemm if key not in known]
    if unknown:
        raise ModelError(
            f"model.fused_gemm: {name} has no product {unknown[0]}; it has {', '.join(known)}"
        )


def _checked(
    gemm: GemmChoice, model: nn.Module, device: torch.device, dtype: torch.dtype
) -> GemmChoice:
    """The choice, or cuBLAS and a warning where Triton's products are not right on the device."""
    blocks = [b for b in blocks_to_fold(model) if chosen_tiles(gemm, channels_of(b)) != CUBLAS]
    put_in = partial(fuse, gemm=gemm)
    problem = disagreement(blocks, device, dtype, torch.channels_last, put_in)
    if problem is None:
        return gemm
    _log.warning(
        "model.fused_gemm: cublas instead, on %s the products of Triton are not right: %s",
        torch.cuda.get_device_name(device),
        problem,
    )
    return "cublas"
