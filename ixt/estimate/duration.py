"""How long a run takes, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ixt.bench.roofline import Device
from ixt.bench.roofline.expected import Rates
from ixt.estimate.phases import Phase
from ixt.estimate.steps import Steps
from ixt.recipe import Recipe


@dataclass(frozen=True)
class Duration:
    """Time and cost of the whole run."""

    train_hours: float
    """Training steps, communication hidden behind the backward pass where it fits."""
    eval_hours: float
    """All evaluations."""
    phase_hours: tuple[float, ...]
    """`train_hours` by phase."""
    hours: float
    """Both."""
    best_hours: float | None
    """Hours with hand-fused kernels; None where nothing better is known."""
    gpu_hours: float
    """Over all GPUs."""
    energy_kwh: float | None
    """Energy of the boards, hosts and cooling not counted; None where their power is unknown."""
    power_basis: str
    """What the energy rests on."""
    price: float | None
    """Cost at the price given for a GPU-hour."""


def run_duration(
    recipe: Recipe,
    steps: Steps,
    phases: Sequence[Phase],
    rates: Rates,
    device: Device,
    exchange_s: float,
    price: float | None,
    watts: float | None,
) -> Duration:
    """Hours and costs of a run.

    Rates are of one GPU, at the recipe's own image size. `exchange_s` is for the communication of
    one update, `price` that of a GPU-hour, in any currency. Without `watts`, a board takes the
    measured power, else the device's full one.
    """
    images_per_gpu = steps.global_batch / steps.num_gpus

    def phase_hours(rate: float) -> tuple[float, ...]:
        return tuple(
            phase.num_epochs
            * steps.updates_per_epoch
            * max(images_per_gpu / (rate * phase.speed), exchange_s)
            / 3600
            for phase in phases
        )

    evaluations = -(-steps.epochs // recipe.eval.every_epochs)
    passes = evaluations * (2 if recipe.ema.decay is not None else 1)
    eval_hours = passes * steps.num_val / (rates.infer * steps.num_gpus) / 3600
    by_phase, best = phase_hours(rates.train), rates.best_train
    hours = sum(by_phase) + eval_hours
    gpu_hours = hours * steps.num_gpus
    powers = ((watts, "given"), (rates.watts, "measured"), (device.power_w, "full board"))
    power, power_basis = next((pair for pair in powers if pair[0]), (None, "unknown"))
    return Duration(
        train_hours=sum(by_phase),
        eval_hours=eval_hours,
        phase_hours=by_phase,
        hours=hours,
        best_hours=None if best is None else sum(phase_hours(best)) + eval_hours,
        gpu_hours=gpu_hours,
        energy_kwh=gpu_hours * power / 1000 if power else None,
        power_basis=f"{power_basis} power",
        price=None if price is None else gpu_hours * price,
    )
