"""How long a run takes: from a benchmark, or from the roofline at a share that was reached."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ixt.bench.results import Row, read_report
from ixt.bench.roofline.devices import Device, Precision, find_device
from ixt.bench.roofline.limits import limits
from ixt.errors import EngineError
from ixt.models import create_empty_model, freeze, recipe_arguments, sized
from ixt.models.cost import Costs, Mode, model_costs
from ixt.models.paper import find_paper_model
from ixt.recipe import Recipe

# The share of its limit that the paper's models reach on an A100 in TF32 with eager PyTorch lies
# between 13 % (atto) and 26 % (base at 384 pixels); NVIDIA's hand-fused ResNet-50 in MLPerf
# reaches 38 % on A100 and H100 alike.
_USUAL_SHARE = 0.2
_BEST_SHARE = 0.38
# CUDA cores are easier to fill: NVIDIA's ResNet-50 does 367 images/s in fp32 on a V100.
# Source: NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5/README.md.
_FP32_SHARE = 0.58
_BENCH_NAMES = {"fp32": "fp32", "tf32": "tf32", "bf16": "amp-bf16", "fp16": "amp-fp16"}


@dataclass(frozen=True)
class Rates:
    """Images per second of one GPU, and where they come from."""

    train: float
    """Training, whole updates."""
    infer: float
    """Forward passes, for evaluation."""
    best_train: float | None
    """Training with hand-fused kernels; None where nothing better is known than `train`."""
    basis: str
    """What the numbers rest on."""


def precision_of(recipe: Recipe) -> Precision:
    """The type that products run in on a GPU."""
    if recipe.engine.precision != "fp32":
        return recipe.engine.precision
    return "tf32" if recipe.engine.tf32 else "fp32"


def _precision_on(device: Device, recipe: Recipe) -> Precision:
    """The recipe's, or fp32 on a device that has no tf32."""
    precision = precision_of(recipe)
    return "fp32" if precision == "tf32" and device.tf32_tflops is None else precision


def roofline_rates(costs: Costs, device: Device, recipe: Recipe) -> Rates:
    """Rates at the share of the roofline that this model, or a usual one, was seen to reach.

    Raises:
        EngineError: the device has no such precision.
    """
    precision = _precision_on(device, recipe)
    batch = recipe.engine.micro_batch_size
    train = limits(costs, device, precision, batch)
    infer = limits(costs, device, precision, batch, "infer")
    row = find_paper_model(costs.name)
    if precision == "fp32":
        shares, reached = [_FP32_SHARE] * 2, "the share of NVIDIA's ResNet-50 in fp32 on a V100"
    elif row is not None and row.image_size == costs.image_size:
        whole = costs.params == row.params == costs.trainable_params
        # The paper trained all of its own model; with frozen parts the limit is another one.
        published = costs if whole else model_costs(row.name, row.image_size)
        shares = [
            row.train_images_per_s / _paper_limit(published, "train"),
            row.infer_images_per_s / _paper_limit(published, "infer"),
        ]
        reached = f"the share that the paper's {row.train_images_per_s} images/s reach on an A100"
    else:
        shares, reached = [_USUAL_SHARE] * 2, "a usual share: the paper's models reach 13 to 26 %"
    return Rates(
        train=shares[0] * train.images_per_s,
        infer=shares[1] * infer.images_per_s,
        best_train=_BEST_SHARE * train.images_per_s if shares[0] < _BEST_SHARE else None,
        basis=f"{shares[0]:.0%} of the roofline limit of {train.images_per_s:,.0f} images/s in "
        f"{precision}, bound by {train.bound}; {reached}",
    )


def _paper_limit(costs: Costs, mode: Mode) -> float:
    # The paper's benchmark: one A100, TF32, batch 128.
    return limits(costs, find_device("a100"), "tf32", 128, mode).images_per_s


def bench_device(path: Path) -> str:
    """The name of the device that a benchmark ran on.

    Raises:
        EngineError: the file cannot be read or holds no measurement.
    """
    rows = _measured(path)
    if not rows:
        raise EngineError(f"{path}: holds no measurement; run `ixt bench` again")
    return str(rows[0].device)


def bench_rates(path: Path, recipe: Recipe, device: Device, num_classes: int) -> Rates:
    """Rates measured by `ixt bench` in the recipe's setting, at the batch nearest to its own.

    A benchmark trains all of a model. A recipe that freezes parts of it is taken to be faster by
    as much as its roofline limit is higher.

    Args:
        path: results of `ixt bench --results`.
        recipe: the setting.
        device: only its measurements count.
        num_classes: outputs of the model.

    Raises:
        EngineError: the file cannot be read or holds no such training rate.
    """
    engine, rows = recipe.engine, _measured(path)
    layout = "channels_last" if engine.channels_last else "contiguous"
    wanted = (recipe.model.name, layout, _BENCH_NAMES[precision_of(recipe)], engine.compile)
    size = recipe.augment.image_size
    fitting = [
        row
        for row in rows
        if (row.model, row.layout, row.precision, row.compile) == wanted
        and row.image_size == size
        and _is_device(str(row.device), device)
    ]
    train = _nearest(fitting, "train", engine.micro_batch_size)
    if train is None:
        compiled = " compiled" if engine.compile else ""
        held = sorted({f"{row.name} at {row.image_size} px on {row.device}" for row in rows})
        raise EngineError(
            f"{path}: holds no training rate of {' '.join(wanted[:3])}{compiled} at {size} px on "
            f"{device.name}; it holds {'; '.join(held) or 'no measurement'}"
        )
    infer = _nearest(fitting, "infer", recipe.eval.batch_size)
    rate = float(train.images_per_s or 0.0)
    gain = _gain_of_freezing(recipe, device, num_classes)
    frozen = f", times {gain:.2f}, the rise of its roofline limit by model.freeze"
    return Rates(
        train=rate * gain,
        # A training step is three forward passes and more.
        infer=float(infer.images_per_s or 0.0) if infer else 3 * rate,
        best_train=None,
        basis=f"measured in {path}: {train.name}{frozen if recipe.model.freeze else ''}",
    )


def _gain_of_freezing(recipe: Recipe, device: Device, num_classes: int) -> float:
    """By how much the limit of training rises where parts of the model are frozen."""
    if recipe.model.freeze is None:
        return 1.0
    whole = recipe.with_(model={"freeze": None})
    precision, batch = _precision_on(device, recipe), recipe.engine.micro_batch_size
    frozen_limit, whole_limit = (
        limits(recipe_costs(empty_model(each, num_classes), each), device, precision, batch)
        for each in (recipe, whole)
    )
    return frozen_limit.images_per_s / whole_limit.images_per_s


def _measured(path: Path) -> list[Row]:
    return [row for row in read_report(path).rows if row.images_per_s]


def _nearest(rows: list[Row], mode: Mode, batch: int) -> Row | None:
    chosen = [row for row in rows if row.mode == mode]
    return min(chosen, key=lambda row: abs(row.batch_size - batch), default=None)


def _is_device(said: str, device: Device) -> bool:
    try:
        return find_device(said) == device
    except EngineError:
        return said == device.name


@dataclass(frozen=True)
class Duration:
    """Time and cost of the whole run."""

    train_hours: float
    """Training steps, communication hidden behind the backward pass where it fits."""
    eval_hours: float
    """All evaluations."""
    hours: float
    """Both."""
    best_hours: float | None
    """With hand-fused kernels; None where nothing better is known."""
    gpu_hours: float
    """Over all GPUs."""
    energy_kwh: float | None
    """At the boards' full power, hosts and cooling not counted; None where it is unknown."""
    price: float | None
    """At the price given for a GPU-hour."""


def estimate(
    recipe: Recipe,
    rates: Rates,
    device: Device,
    *,
    num_gpus: int,
    updates: int,
    exchange_s: float,
    num_val: int,
    price_per_gpu_hour: float | None,
) -> Duration:
    """Hours and costs of a run.

    Args:
        recipe: batch, evaluations and EMA.
        rates: of one GPU.
        device: its power.
        num_gpus: ranks.
        updates: of the whole run.
        exchange_s: for the communication of one update.
        num_val: validation images.
        price_per_gpu_hour: in any currency.
    """
    images_per_gpu = recipe.engine.global_batch_size / num_gpus

    def train_hours(rate: float) -> float:
        return updates * max(images_per_gpu / rate, exchange_s) / 3600

    epochs = recipe.schedule.total_epochs
    evaluations = -(-epochs // recipe.eval.every_epochs)
    passes = evaluations * (2 if recipe.ema.decay is not None else 1)
    eval_hours = passes * num_val / (rates.infer * num_gpus) / 3600
    hours = train_hours(rates.train) + eval_hours
    best = rates.best_train
    gpu_hours = hours * num_gpus
    return Duration(
        train_hours=train_hours(rates.train),
        eval_hours=eval_hours,
        hours=hours,
        best_hours=train_hours(best) + eval_hours if best is not None else None,
        gpu_hours=gpu_hours,
        energy_kwh=gpu_hours * device.power_w / 1000 if device.power_w else None,
        price=gpu_hours * price_per_gpu_hour if price_per_gpu_hour is not None else None,
    )


def empty_model(recipe: Recipe, num_classes: int) -> nn.Module:
    """The model that a recipe trains, on the meta device, with what it freezes frozen.

    Raises:
        ModelError: the model or a part of it to freeze is unknown.
    """
    settings = sized(recipe).model
    model = create_empty_model(settings.name, num_classes=num_classes, **recipe_arguments(settings))
    if settings.freeze is not None:
        freeze(model, settings.freeze)
    return model


def recipe_costs(model: nn.Module, recipe: Recipe) -> Costs:
    """What a training image costs in a recipe's `empty_model`."""
    costs = model_costs(model, recipe.augment.image_size)
    # The paper's rates are those of its own models, not of what `kwargs` make of them.
    return costs if recipe.model.kwargs else replace(costs, name=recipe.model.name)
