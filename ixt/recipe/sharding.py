"""What the engines cannot do, or would do wrong without a word: refused when a recipe is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ixt.recipe.engine import Engine
    from ixt.recipe.model import Model
    from ixt.recipe.optim import Optim

ELEMENTWISE = ("adamw", "lion", "nadamw", "rmsproptf", "sgd")
"""Optimizers that treat every weight alone, whatever the shape of its parameter.

ZeRO 1 to 3 lays parameters end to end; lamb, lars, adamp, adafactorbv, muon and adan then step
otherwise than on whole parameters.
"""


def engine_problems(engine: Engine) -> Iterator[str]:
    """What is wrong with an engine section, a sentence each."""
    if engine.half_residual and engine.precision == "fp32":
        yield "half_residual acts only with precision: bf16 or fp16; set that, or remove it"
    if engine.compile_mode != "default" and not engine.compile:
        yield "compile_mode acts only with compile: true; set that, or remove it"
    if engine.kind == "ddp":
        given = {
            "zero_stage": engine.zero_stage is not None,
            "offload": engine.offload != "none",
            "ds_config": engine.ds_config is not None,
        }
        for name in (name for name, is_given in given.items() if is_given):
            yield f"{name} acts only with kind: deepspeed; set that, or remove it"
    elif engine.zero_stage is None:
        yield "kind is deepspeed; give zero_stage: 0, 1, 2 or 3"
    else:
        yield from _deepspeed_problems(engine)


def fused_problems(model: Model, engine: Engine) -> Iterator[str]:
    """What is wrong with fused layers under an engine."""
    if engine.zero_stage == 3 and model.fused is True:
        yield (
            "model.fused: engine.zero_stage 3 brings weights to the layer that owns them, and "
            "fused layers read those of several; give auto or false, or zero_stage 2"
        )
    folds = model.fused and engine.channels_last and engine.zero_stage != 3
    if model.fused_gemm != "cublas" and not folds:
        yield (
            "model.fused_gemm acts on folded blocks, which need model.fused: auto or true, "
            "engine.channels_last: true and no engine.zero_stage 3; set those, or "
            "fused_gemm: cublas"
        )


def optimizer_problems(engine: Engine, optim: Optim) -> Iterator[str]:
    """What is wrong with an optimizer under an engine."""
    if engine.zero_stage and optim.name not in ELEMENTWISE:
        yield (
            f"optim.name: {optim.name} needs whole parameters, which engine.zero_stage "
            f"{engine.zero_stage} cuts up; take one of {', '.join(ELEMENTWISE)}, "
            "zero_stage: 0 or kind: ddp"
        )


def _deepspeed_problems(engine: Engine) -> Iterator[str]:
    if engine.precision == "fp16":
        yield (
            "precision is fp16: DeepSpeed clips gradients that are still scaled; "
            "take bf16, or kind: ddp"
        )
    if engine.precision == "bf16" and engine.gradient_dtype == "fp16":
        yield "gradient_dtype is fp16 and precision bf16; DeepSpeed sends fp32 or bf16 then"
    if engine.static_graph:
        yield "static_graph acts only with kind: ddp; remove it"
    if engine.zero_stage == 0 and engine.offload != "none":
        yield "offload needs zero_stage 1 or more; ZeRO-0 leaves the optimizer to torch"
    if engine.zero_stage == 0 and engine.bucket_mib is not None:
        yield "bucket_mib needs zero_stage 1 or more, or kind: ddp"
    if engine.zero_stage == 3 and engine.compile:
        yield (
            "compile: ZeRO-3's gathering breaks the graph at every layer; "
            "take zero_stage 2, or compile: false"
        )
