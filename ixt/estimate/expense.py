"""What recipes cost to their end, beside the accuracy that was published for them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from ixt.bench.console import print_lines, print_table
from ixt.errors import EngineError
from ixt.estimate.estimate import IMAGENET, RunEstimate, Target, estimate_run
from ixt.estimate.text import as_data
from ixt.recipe import Recipe, find_recipe, load_recipe
from ixt.recipe.paper import paper_models

_PUBLISHED = re.compile(r"Published top-1[^.:]*:[\s#]*(\d\d\.\d)")
# Sections that decide over the weights; the others only say where and how fast.
_DECIDING = ("model", "augment", "optim", "schedule", "curriculum", "teacher", "ema")


@dataclass(frozen=True)
class Expense:
    """What a recipe costs, and what it is known to reach."""

    estimate: RunEstimate
    top1: float | None
    """Published accuracy in percent; see `published_top1`."""

    @property
    def gpu_hours(self) -> list[tuple[str, float]]:
        """GPU-hours by image size in the order of the phases, and of the evaluation."""
        found, time = self.estimate, self.estimate.duration
        names = [f"{phase.image_size} px" for phase in found.phases]
        hours = zip([*names, "evaluation"], [*time.phase_hours, time.eval_hours], strict=True)
        return [(name, each * found.steps.num_gpus) for name, each in hours]

    def as_data(self) -> dict[str, Any]:
        """The estimate and the accuracy as plain data for JSON."""
        kept = ("name", "device", "steps", "phases", "rates_images_per_s", "duration")
        data = as_data(self.estimate)
        return {key: data[key] for key in kept} | {"published_top1": self.top1}


def find_expenses(
    recipes: Sequence[str], overrides: list[str], target: Target, rates: Sequence[float] = ()
) -> list[Expense]:
    """Estimate every recipe on one machine.

    `rates` are images per second of one GPU at the own image size of each recipe; without any,
    those of the target's benchmark or the roofline's are taken.

    Raises:
        IxtError: see `estimate_run`; there are not as many rates as recipes.
    """
    if rates and len(rates) != len(recipes):
        raise EngineError(
            f"--images-per-s: is given {len(rates)} times for {len(recipes)} recipes; "
            "give it once for each, in their order"
        )
    found = []
    for path, rate in zip_longest(map(find_recipe, recipes), rates):
        estimate = estimate_run(path, overrides, replace(target, images_per_s=rate))
        found.append(Expense(estimate, published_top1(load_recipe(path, overrides))))
    return found


def published_top1(recipe: Recipe) -> float | None:
    """The ImageNet-1k accuracy, in percent, in the head of the shipped recipe with these settings.

    A recipe that differs in what changes the weights has none, whatever its own head says: a copy
    with fewer epochs keeps that of its original.
    """
    for path in sorted(find_recipe("inceptionnext_tiny").parent.glob("*.yaml")):
        found = _PUBLISHED.search(path.read_text(encoding="utf-8"))
        if found and _deciding(load_recipe(path)) == _deciding(recipe):
            return float(found[1])
    return None


def _deciding(recipe: Recipe) -> list[Any]:
    sections = [getattr(recipe, section) for section in _DECIDING]
    return [*sections, recipe.engine.global_batch_size, recipe.eval.image_size]


def fine_tunes(model: str) -> bool:
    """Whether the paper fine-tuned the model from another one, whose hours it also needs."""
    return model.endswith("_384")


def published_points() -> Iterator[tuple[str, float, float]]:
    """Name, A100-hours and top-1 of the paper's models that are trained from scratch.

    The hours are those of the shipped recipe's epochs at the paper's rate, without evaluations.
    """
    for info in paper_models():
        if not fine_tunes(info.name):
            epochs = load_recipe(find_recipe(info.name)).schedule.total_epochs
            yield info.name, epochs * IMAGENET[0] / info.train_images_per_s / 3600, info.top1


def print_expenses(expenses: Sequence[Expense]) -> None:
    """Print a line per recipe, and what the numbers rest on."""
    columns = ["recipe", "published top-1", "images/s", "by image size", "GPU-hours", "kWh"]
    rows = []
    for expense in expenses:
        found, time = expense.estimate, expense.estimate.duration
        row = [found.name, f"{expense.top1 or 'none'}"]
        row += [f"{found.rates.train:,.0f} {found.rates.origin}"]
        row += [", ".join(f"{name} {hours:,.1f}" for name, hours in expense.gpu_hours)]
        row += [f"{time.gpu_hours:,.1f}", f"{time.energy_kwh or math.nan:,.1f}"]
        rows.append(row + ([] if time.price is None else [f"{time.price:,.2f}"]))
    first = expenses[0].estimate
    title = f"To the end on ImageNet-1k, {first.steps.num_gpus} x {first.device.name}"
    columns += [] if first.duration.price is None else ["price"]
    print_table(columns, rows, words=("recipe", "by image size"), title=title)
    for expense in expenses:
        print_lines(f"{expense.estimate.name}: {remark}" for remark in _remarks(expense))


def _remarks(expense: Expense) -> Iterator[str]:
    found, model = expense.estimate, expense.estimate.recipe.model.name
    yield f"{found.rates.basis}; kWh at {found.duration.power_basis}"
    sizes = {phase.image_size for phase in found.phases if phase.speed_basis == "roofline"}
    if sizes and found.rates.origin != "predicted":
        text = ", ".join(f"{size} px" for size in sorted(sizes))
        yield f"{text}: predicted, by the roofline's ratio to the rate at the recipe's own size"
    if expense.top1 is None:
        yield "no accuracy was published for these settings; a picture shows its cost alone"
    if found.recipe.teacher.is_on:
        yield "the teacher's forward passes are not counted"
    if fine_tunes(model):
        yield "fine-tunes another model, whose own training is not counted; not among the points"
