"""How fast a run is: by a benchmark, or by the roofline at a share that was reached."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ixt.bench.results import Row, read_report
from ixt.bench.roofline.devices import Device, Precision, find_device
from ixt.bench.roofline.limits import costs_of, limits
from ixt.costs import Costs, Mode
from ixt.distributed.machine import may_have_gpu
from ixt.errors import EngineError
from ixt.recipe import Recipe
from ixt.recipe.paper import find_paper_model

if TYPE_CHECKING:
    from torch import nn

# The share of its limit that the paper's models reach on an A100 in TF32 with eager PyTorch lies
# between 13 % (atto) and 26 % (base at 384 pixels); NVIDIA's hand-fused ResNet-50 in MLPerf
# reaches 38 % on A100 and H100 alike.
_USUAL_SHARE = 0.2
_BEST_SHARE = 0.38
# CUDA cores are easier to fill: NVIDIA's ResNet-50 does 367 images/s in fp32 on a V100.
# Source: NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5/README.md.
_FP32_SHARE = 0.58
_ASSUMED = "h100"
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
    origin: Literal["measured", "given", "predicted"] = "predicted"
    """Whether a benchmark, the user or the roofline gives `train`."""
    watts: float | None = None
    """Power in training, by the energy counter of the benchmark's device."""


def precision_of(recipe: Recipe) -> Precision:
    """The type that products run in on a GPU."""
    if recipe.engine.precision != "fp32":
        return recipe.engine.precision
    return "tf32" if recipe.engine.tf32 else "fp32"


def _precision_on(device: Device, recipe: Recipe) -> Precision:
    """The recipe's, or fp32 on a device that has no tf32."""
    precision = precision_of(recipe)
    return "fp32" if precision == "tf32" and device.tf32_tflops is None else precision


def training_limit(costs: Costs, device: Device, recipe: Recipe) -> float:
    """Images per second that the roofline lets a recipe train on, for an image of these costs."""
    batch = recipe.engine.micro_batch_size
    return limits(costs, device, _precision_on(device, recipe), batch).images_per_s


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
        published = costs if whole else costs_of(row.name, row.image_size)
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


def assumed_device(name: str | None, bench: Path | None) -> Device:
    """The device by name; without one the benchmark's, then this machine's, then an H100.

    `name` is for `find_device`, `bench` a results file of `ixt bench`.

    Raises:
        EngineError: the device is unknown, or the file cannot be read or holds no measurement.
    """
    if name is None and bench is not None:
        rows = _measured(bench)
        if not rows:
            raise EngineError(f"{bench}: holds no measurement; run `ixt bench` again")
        name = str(rows[0].device)
    if name is None:
        name = _gpu_here() or _ASSUMED
    return find_device(name)


def _gpu_here() -> str | None:
    """Name of this machine's first GPU; None without one, which torch is not needed to see."""
    if not may_have_gpu():
        return None
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def expected_rates(
    recipe: Recipe, device: Device, bench: Path | None, num_classes: int, costs: Costs | None = None
) -> Rates:
    """The rates of a benchmark, or without one those at a share of the roofline.

    `costs` are those of `recipe_costs`, where they are known.

    Raises:
        EngineError: the benchmark holds no such rate, or the device has no such precision.
        ModelError: the model is unknown.
    """
    if bench is not None:
        return bench_rates(bench, recipe, device, num_classes)
    costs = costs or recipe_costs(empty_model(recipe, num_classes), recipe)
    return roofline_rates(costs, device, recipe)


def bench_rates(path: Path, recipe: Recipe, device: Device, num_classes: int) -> Rates:
    """Rates measured by `ixt bench` in the recipe's setting, at the batch nearest to its own.

    A benchmark trains all of a model. A recipe that freezes parts of it is taken to be faster by
    as much as its roofline limit is higher.

    Only measurements on `device` count.

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
    rate, per_joule = float(train.images_per_s or 0.0), train.images_per_joule
    gain = _gain_of_freezing(recipe, device, num_classes)
    frozen = f", times {gain:.2f}, the rise of its roofline limit by model.freeze"
    return Rates(
        train=rate * gain,
        # A training step is three forward passes and more.
        infer=float(infer.images_per_s or 0.0) if infer else 3 * rate,
        best_train=None,
        basis=f"measured in {path}: {train.name}{frozen if recipe.model.freeze else ''}",
        origin="measured",
        watts=rate / per_joule if per_joule else None,
    )


def given_rates(images_per_s: float | None) -> Rates | None:
    """Rates that follow from a training rate that the user knows; None without one."""
    if images_per_s is None:
        return None
    basis = f"the given {images_per_s:,.6g} images/s"
    return Rates(images_per_s, 3 * images_per_s, None, basis, "given")


def _gain_of_freezing(recipe: Recipe, device: Device, num_classes: int) -> float:
    """By how much the limit of training rises where parts of the model are frozen."""
    if recipe.model.freeze is None:
        return 1.0
    whole = recipe.with_(model={"freeze": None})
    frozen_limit, whole_limit = (
        training_limit(recipe_costs(empty_model(each, num_classes), each), device, each)
        for each in (recipe, whole)
    )
    return frozen_limit / whole_limit


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


def empty_model(recipe: Recipe, num_classes: int) -> nn.Module:
    """The model that a recipe trains, on the meta device, with what it freezes frozen.

    Raises:
        ModelError: the model or a part of it to freeze is unknown.
    """
    from ixt.models import create_empty_model, freeze, recipe_arguments, sized

    settings = sized(recipe).model
    model = create_empty_model(settings.name, num_classes=num_classes, **recipe_arguments(settings))
    if settings.freeze is not None:
        freeze(model, settings.freeze)
    return model


def recipe_costs(model: nn.Module, recipe: Recipe) -> Costs:
    """What a training image costs in a recipe's `empty_model`."""
    from ixt.models import model_costs

    costs = model_costs(model, recipe.augment.image_size)
    # The paper's rates are those of its own models, not of what `kwargs` make of them.
    return costs if recipe.model.kwargs else replace(costs, name=recipe.model.name)
