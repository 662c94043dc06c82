"""From a recipe and a machine to an estimate; refuses what would fail once GPUs are taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ixt.bench.roofline import Device, Precision, find_device
from ixt.bench.roofline.expected import (
    Duration,
    Rates,
    bench_device,
    bench_rates,
    empty_model,
    estimate,
    precision_of,
    recipe_costs,
    roofline_rates,
)
from ixt.errors import EngineError
from ixt.estimate.activations import saved_activations
from ixt.estimate.curve import Curve, sample_curve
from ixt.estimate.memory import (
    GIB,
    Memory,
    ModelSize,
    largest_micro_batch,
    optimizer_bytes_per_param,
    rank_memory,
    zero_stage,
)
from ixt.estimate.network import Link, Traffic, find_link, update_traffic
from ixt.estimate.steps import Steps, count_steps
from ixt.images.folders import Split
from ixt.images.index import load_index
from ixt.models import Costs, count_params
from ixt.pipeline.plan.subset import take_subset
from ixt.recipe import Origins, Recipe, trace_recipe
from ixt.training.optimizer import learning_rate

# Training images, validation images and classes of ImageNet-1k.
# Source: Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge", table 2.
IMAGENET = (1_281_167, 50_000, 1000)

_FP32 = 4
_ASSUMED_DEVICE = "h100"


@dataclass(frozen=True)
class Target:
    """The machine that an estimate is for, as the user names it."""

    num_gpus: int
    """Ranks, one per GPU, over all machines."""
    device: str | None = None
    """For `find_device`; None takes the benchmark's, then this machine's, then an H100."""
    interconnect: str | None = None
    """For `find_link`; None takes the device's own link."""
    bench: Path | None = None
    """Results of `ixt bench`; None estimates from the roofline."""
    price_per_gpu_hour: float | None = None
    """In any currency."""


@dataclass(frozen=True)
class Disk:
    """What checkpoints take."""

    checkpoint_bytes: float
    """Weights, average, optimizer state and each rank's batch-norm statistics."""
    num_kept: int
    """Newest and best ones."""
    peak_bytes: float
    """While one more is written beside those kept."""


@dataclass(frozen=True)
class RunEstimate:
    """Everything that is known before a run starts."""

    name: str
    recipe: Recipe
    origins: Origins
    """Where each value of the recipe was written."""
    device: Device
    precision: Precision
    engine: str
    steps: Steps
    curve: Curve
    costs: Costs
    memory: Memory
    largest_micro_batch: int | None
    """The largest micro-batch that fits the card and divides the global batch."""
    disk: Disk
    traffic: Traffic
    rates: Rates
    duration: Duration


def estimate_run(path: Path, overrides: list[str], target: Target) -> RunEstimate:
    """Work out what a recipe will do and need on a machine. Takes no GPU.

    Args:
        path: the recipe's file.
        overrides: `section.key=value` texts; `data.root` counts the images there, otherwise
            ImageNet-1k's numbers are taken.
        target: the machine.

    Raises:
        IxtError: the recipe is wrong, the batch cannot be shared by the GPUs, the memory does
            not suffice, or the device, link or benchmark is not what it should be.
    """
    recipe, origins = trace_recipe(path, overrides)
    num_train, num_val, num_classes = _data_size(recipe)
    steps = count_steps(recipe, target.num_gpus, num_train, num_val)
    device = find_device(_device_name(target))
    link = find_link(target.interconnect, device, target.num_gpus)
    model = empty_model(recipe, num_classes)
    costs = recipe_costs(model, recipe)
    size = _size(model, recipe)
    memory = rank_memory(size, recipe, steps.micro_batch, steps.num_gpus)
    largest = largest_micro_batch(size, recipe, steps.num_gpus, device.memory_gib * GIB)
    _check_memory(recipe, memory, device, largest)
    stage = zero_stage(recipe.engine)
    traffic = _traffic(size, recipe, steps, link)
    if target.bench is not None:
        rates = bench_rates(target.bench, recipe, device, num_classes)
    else:
        rates = roofline_rates(costs, device, recipe)
    return RunEstimate(
        name=path.stem,
        recipe=recipe,
        origins=origins,
        device=device,
        precision=precision_of(recipe),
        engine="ddp" if stage is None else f"DeepSpeed ZeRO {stage}",
        steps=steps,
        curve=_curve(recipe, steps),
        costs=costs,
        memory=memory,
        largest_micro_batch=largest,
        disk=_disk(recipe, size, steps.num_gpus),
        traffic=traffic,
        rates=rates,
        duration=estimate(
            recipe,
            rates,
            device,
            num_gpus=steps.num_gpus,
            updates=steps.updates,
            exchange_s=traffic.seconds,
            num_val=num_val,
            price_per_gpu_hour=target.price_per_gpu_hour,
        ),
    )


def _data_size(recipe: Recipe) -> tuple[int, int, int]:
    """Training images, validation images, outputs of the model."""
    if recipe.data.root is None:
        num_train, num_val, num_classes = IMAGENET
    else:
        splits: tuple[Split, Split] = ("train", "val")
        train, val = (take_subset(load_index(recipe.data.root, s), recipe, s) for s in splits)
        num_train, num_val, num_classes = len(train), len(val), len(train.classes)
    return num_train, num_val, recipe.model.num_classes or num_classes


def _device_name(target: Target) -> str:
    if target.device is not None:
        return target.device
    if target.bench is not None:
        return bench_device(target.bench)
    return torch.cuda.get_device_name() if torch.cuda.is_available() else _ASSUMED_DEVICE


def _size(model: nn.Module, recipe: Recipe) -> ModelSize:
    return ModelSize(
        params=count_params(model),
        trained_params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        buffers=sum(b.numel() for b in model.buffers() if b.is_floating_point()),
        optimizer_bytes_per_param=optimizer_bytes_per_param(recipe.optim),
        activations=saved_activations(
            model, recipe.augment.image_size, half=recipe.engine.precision != "fp32"
        ),
    )


def _traffic(size: ModelSize, recipe: Recipe, steps: Steps, link: Link) -> Traffic:
    return update_traffic(
        size.trained_params,
        steps.num_gpus,
        steps.accumulation,
        zero_stage(recipe.engine),
        link,
        recipe.engine.gradient_dtype,
        frozen=size.params - size.trained_params,
    )


def _check_memory(recipe: Recipe, memory: Memory, device: Device, largest: int | None) -> None:
    if memory.total <= device.memory_gib * GIB:
        return
    micro = recipe.engine.micro_batch_size
    if largest is not None:
        way = f"engine.micro_batch_size={largest} fits"
    else:
        way = (
            "no micro-batch fits; share the state with engine.kind deepspeed and a ZeRO stage, "
            "or take a larger card"
        )
    raise EngineError(
        f"{device.name}: has {device.memory_gib:g} GiB and a GPU would need "
        f"{memory.total / GIB:.1f} GiB with engine.micro_batch_size {micro} "
        f"({memory.activations / GIB:.1f} of them activations); {way}"
    )


def _curve(recipe: Recipe, steps: Steps) -> Curve:
    schedule = recipe.schedule
    by_epoch = schedule.unit == "epoch"
    points = 1 if by_epoch else max(1, min(steps.updates_per_epoch, 1200 // steps.epochs))
    rate = learning_rate(schedule, recipe.optim.lr, steps.updates_per_epoch)
    return sample_curve(rate, steps.updates_per_epoch, steps.epochs, points)


def _disk(recipe: Recipe, size: ModelSize, num_gpus: int) -> Disk:
    weights = _FP32 * (size.params + size.buffers)
    with_ema = 2 if recipe.ema.decay is not None else 1
    statistics = _FP32 * size.buffers * num_gpus * with_ema
    one = with_ema * weights + size.optimizer_bytes_per_param * size.trained_params + statistics
    kept = recipe.run.keep_last + recipe.run.keep_best
    return Disk(one, kept, (kept + 1) * one)
