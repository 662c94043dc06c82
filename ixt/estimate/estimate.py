"""From a recipe and a machine to an estimate; refuses what would fail once GPUs are taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ixt.bench.roofline import Device, Precision
from ixt.bench.roofline.expected import (
    Rates,
    assumed_device,
    expected_rates,
    given_rates,
    precision_of,
)
from ixt.costs import Costs, kept_count
from ixt.errors import EngineError
from ixt.estimate.curve import Curve, sample_curve
from ixt.estimate.duration import Duration, run_duration
from ixt.estimate.memory import (
    GIB,
    Activations,
    Memory,
    ModelSize,
    largest_micro_batch,
    rank_memory,
    zero_stage,
)
from ixt.estimate.network import Traffic, find_link, update_traffic
from ixt.estimate.phases import Phase, find_phases
from ixt.estimate.steps import Steps, count_steps
from ixt.images.folders import Split
from ixt.pipeline.plan.subset import recipe_index
from ixt.recipe import (
    Origins,
    Recipe,
    completed,
    is_complete,
    refuse_null_arguments,
    trace_recipe,
)

# Training images, validation images and classes of ImageNet-1k.
# Source: Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge", table 2.
IMAGENET = (1_281_167, 50_000, 1000)

_FP32 = 4


@dataclass(frozen=True)
class Target:
    """The machine that an estimate is for, as the user names it."""

    num_gpus: int
    """Ranks, one per GPU, over all machines."""
    device: str | None = None
    """See `assumed_device`."""
    interconnect: str | None = None
    """Name of the link between machines, see `find_link`; None takes the device's own link."""
    bench: Path | None = None
    """Results of `ixt bench`; None estimates from the roofline."""
    price_per_gpu_hour: float | None = None
    """Price of a GPU-hour, in any currency."""
    images_per_s: float | None = None
    """Rate of one GPU at the recipe's own image size, in place of `bench` or the roofline's."""
    watts: float | None = None
    """Power of one GPU; None takes the measured one, else the device's full power."""

    def __post_init__(self) -> None:
        """Refuse what is not above 0."""
        given = (self.price_per_gpu_hour, self.watts, self.images_per_s)
        for option, value in zip(("--price", "--watts", "--images-per-s"), given, strict=True):
            if value is not None and not 0 < value < math.inf:
                raise EngineError(f"{option}: is {value:g}; give a number above 0")
        if self.bench is not None and self.images_per_s is not None:
            raise EngineError("--images-per-s: has no effect beside --bench; remove one of them")


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
    phases: tuple[Phase, ...]
    """Epochs by the size of their images; one without a curriculum."""
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

    Images are counted where `data.root` is given, otherwise ImageNet-1k's numbers are taken.

    Raises:
        IxtError: the recipe is wrong, the batch cannot be shared by the GPUs, the memory does
            not suffice, or the device, link or benchmark is not what it should be.
    """
    recipe, origins = trace_recipe(path, overrides)
    refuse_null_arguments(recipe, origins)
    recipe = _with_own_settings(recipe)
    num_train, num_val, num_classes = _data_size(recipe)
    if recipe.data.root is not None:
        recipe = recipe.with_batches(num_train, target.num_gpus)
    steps = count_steps(recipe, target.num_gpus, num_train, num_val)
    device = assumed_device(target.device, target.bench)

    @cache
    def counted(image_size: int) -> tuple[Costs, ModelSize]:
        return _count_model(recipe.with_(augment={"image_size": image_size}), num_classes)

    costs, _ = counted(recipe.augment.image_size)
    given, bench, price = target.images_per_s, target.bench, target.price_per_gpu_hour
    rates = given_rates(given) or expected_rates(recipe, device, bench, num_classes, costs)
    phases = find_phases(
        recipe, lambda side: counted(side)[0], device, rates.train, bench, num_classes
    )
    most, memory = max(
        _phase_memories(recipe, phases, lambda side: counted(side)[1], steps.num_gpus),
        key=lambda phase: phase[1].total,
    )
    _, size = counted(most.augment.image_size)
    largest = largest_micro_batch(size, most, steps.num_gpus, device.memory_gib * GIB)
    _check_memory(most, memory, device, largest)
    stage = zero_stage(recipe.engine)
    link = find_link(target.interconnect, device, steps.num_gpus)
    traffic = update_traffic(size, recipe.engine, steps.num_gpus, steps.accumulation, link)
    return RunEstimate(
        name=path.stem,
        recipe=recipe,
        origins=origins,
        device=device,
        precision=precision_of(recipe),
        engine="ddp" if stage is None else f"DeepSpeed ZeRO {stage}",
        steps=steps,
        phases=phases,
        curve=sample_curve(recipe, steps),
        costs=costs,
        memory=memory,
        largest_micro_batch=largest,
        disk=_disk(recipe, size, steps.num_gpus),
        traffic=traffic,
        rates=rates,
        duration=run_duration(
            recipe, steps, phases, rates, device, traffic.seconds, price, target.watts
        ),
    )


def _phase_memories(
    recipe: Recipe, phases: Sequence[Phase], sized: Callable[[int], ModelSize], num_gpus: int
) -> Iterator[tuple[Recipe, Memory]]:
    """The memory of a GPU in each phase, with the recipe of its epochs."""
    for phase in phases:
        each = recipe.in_epoch(phase.first_epoch)
        yield each, rank_memory(sized(phase.image_size), each, phase.micro_batch, num_gpus)


def _with_own_settings(recipe: Recipe) -> Recipe:
    """As `ixt.models.with_own_settings`, with the settings of models that were met before kept."""
    if is_complete(recipe):
        return recipe
    name, eval_size = recipe.model.name, recipe.eval.image_size

    def count() -> Mapping[str, Any]:
        from ixt.models import own_settings

        return own_settings(name, eval_size=eval_size).sections

    return completed(recipe, kept_count("own-settings", [name, eval_size], count))


def _count_model(recipe: Recipe, num_classes: int) -> tuple[Costs, ModelSize]:
    """As `ixt.estimate.counting.count_model`, with the counts of models that were met before kept.

    A count does not depend on batch sizes or the schedule, so other ones need no new count.
    """

    def count() -> list[dict[str, Any]]:
        from ixt.estimate.counting import count_model

        return [asdict(part) for part in count_model(recipe, num_classes)]

    sections = recipe.model_dump(mode="json", include={"model", "optim", "augment", "eval"})
    costs, size = kept_count("model", [sections, recipe.engine.precision, num_classes], count)
    activations = Activations(**size.pop("activations"))
    return Costs.from_data(costs), ModelSize(**size, activations=activations)


def _data_size(recipe: Recipe) -> tuple[int, int, int]:
    """Training images, validation images, outputs of the model."""
    if recipe.data.root is None:
        num_train, num_val, num_classes = IMAGENET
    else:
        splits: tuple[Split, Split] = ("train", "val")
        train, val = (recipe_index(recipe, s) for s in splits)
        num_train, num_val, num_classes = len(train), len(val), len(train.classes)
    return num_train, num_val, recipe.model.num_classes or num_classes


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


def _disk(recipe: Recipe, size: ModelSize, num_gpus: int) -> Disk:
    weights = _FP32 * (size.params + size.buffers)
    with_ema = 2 if recipe.ema.decay is not None else 1
    statistics = _FP32 * size.buffers * num_gpus * with_ema
    one = with_ema * weights + size.optimizer_bytes_per_param * size.trained_params + statistics
    kept = recipe.run.keep_last + recipe.run.keep_best
    return Disk(one, kept, (kept + 1) * one)
