"""Memory of one rank by engine, and the micro-batches that a card can hold."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

from ixt.costs import input_bytes
from ixt.recipe import Engine, Recipe

GIB = 2**30
_FP32 = 4

# What the CUDA context, cuDNN's workspaces and NCCL's buffers take, and what the caching allocator
# cannot use: allowances, as nobody publishes them. Together 6-7 GiB of an 80 GiB card.
_CONTEXT_BYTES = 2 * GIB
_FRAGMENTATION = 0.05

# Elements of DeepSpeed's flat buffer of gradients under way: `reduce_bucket_size`, its default.
_ZERO_BUCKET_ELEMENTS = 500_000_000


@dataclass(frozen=True)
class Activations:
    """What autograd saves in a forward pass: bytes(batch) = fixed + batch * per_image."""

    per_image_bytes: float
    """Grows with the batch."""
    fixed_bytes: float
    """Does not: autocast's copies of the weights, batch norm's statistics."""
    largest_bytes: float
    """The largest tensor of one image that a layer gives, saved or not: a frozen one saves none."""


@dataclass(frozen=True)
class ModelSize:
    """What memory depends on besides the batch."""

    params: int
    """Parameters, frozen ones included."""
    trained_params: int
    """Parameters with a gradient and optimizer state."""
    buffers: int
    """Elements of floating-point buffers: batch norm's statistics."""
    optimizer_bytes_per_param: float
    """State of the optimizer for each trained one: 8 for Adam's two fp32 moments."""
    activations: Activations
    """What the forward pass saves."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank at the peak of a training step."""

    parameters: float
    """fp32 weights and buffers that live here."""
    gradients: float
    """fp32 gradients."""
    optimizer: float
    """Its state, and under ZeRO 1 and 2 its own fp32 copy of the weights; 0 if offloaded."""
    ema: float
    """Averaged weights and buffers."""
    communication: float
    """Buckets through which ZeRO reduces gradients and gathers weights."""
    activations: float
    """What the forward pass saves, autocast's copies of the weights included."""
    working: float
    """What comes and goes: two of the largest tensor, a gradient or a frozen layer's in and out."""
    input: float
    """Decoded images waiting, and a micro-batch being augmented."""
    allowance: float
    """CUDA context, cuDNN, NCCL, fragmentation: assumed, not computed."""

    @cached_property
    def total(self) -> float:
        """All of it, in bytes."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


def zero_stage(engine: Engine) -> int | None:
    """DeepSpeed's ZeRO stage; None under plain data parallelism."""
    return engine.zero_stage if engine.kind == "deepspeed" else None


def rank_memory(size: ModelSize, recipe: Recipe, micro_batch: int, num_gpus: int) -> Memory:
    """Peak memory of one rank.

    Source: the shares of ZeRO from Rajbhandari et al. 2020, "ZeRO", section 5, with fp32 weights
    and gradients; buffers and the fp32 copy as DeepSpeed 0.19 allocates them.
    """
    stage, saved = zero_stage(recipe.engine), size.activations
    weights = _FP32 * size.params / (num_gpus if stage == 3 else 1)
    buffers = _FP32 * size.buffers
    gradients = _FP32 * size.trained_params
    shard = gradients / num_gpus
    parts = {
        "parameters": weights + buffers,
        "gradients": shard if stage in (2, 3) else gradients,
        "optimizer": _optimizer(size, recipe.engine, stage, num_gpus),
        "ema": weights + buffers if recipe.ema.decay is not None else 0.0,
        "communication": _communication(size, recipe.engine, stage),
        "activations": saved.fixed_bytes + micro_batch * saved.per_image_bytes,
        "working": 2 * micro_batch * saved.largest_bytes,
        "input": input_bytes(micro_batch, recipe.augment.image_size, recipe.data.prefetch_batches),
    }
    allowance = _CONTEXT_BYTES + _FRAGMENTATION * sum(parts.values())
    return Memory(**parts, allowance=allowance)


def _optimizer(size: ModelSize, engine: Engine, stage: int | None, num_gpus: int) -> float:
    if engine.offload == "cpu":
        return 0.0
    # ZeRO 1 and 2 step an fp32 copy of the weights beside those of the model.
    per_param = size.optimizer_bytes_per_param + (_FP32 if stage in (1, 2) else 0)
    return per_param * size.trained_params / (num_gpus if stage else 1)


def _communication(size: ModelSize, engine: Engine, stage: int | None) -> float:
    if stage is None:  # DDP's gradients are views of its buckets
        return 0.0
    if stage == 0:  # one flat copy of the gradients
        return _FP32 * size.trained_params
    bucket = engine.bucket_mib * 2**20 if engine.bucket_mib else _FP32 * _ZERO_BUCKET_ELEMENTS
    # ZeRO 3 reduces from two buckets in turn, and may gather the whole of a network this small.
    return 2 * bucket + _FP32 * size.params if stage == 3 else bucket


def largest_micro_batch(
    size: ModelSize, recipe: Recipe, num_gpus: int, memory_bytes: float
) -> int | None:
    """The largest micro-batch that fits, and that global batch and mixing allow; None if none."""
    for micro in recipe.fitting_micro_batches(num_gpus):
        if rank_memory(size, recipe, micro, num_gpus).total <= memory_bytes:
            return micro
    return None
