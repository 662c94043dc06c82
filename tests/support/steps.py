"""Updates of a small model by the trainer's own `train_step`, without data or run folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import nn

from ixt.monitor.positions import Peer
from ixt.pipeline.loader import Batch
from ixt.recipe import Recipe, parse_recipe
from ixt.training.ema import Ema
from ixt.training.interval import IntervalLog
from ixt.training.loop import micro_step, train_step
from ixt.training.optimizer import build_loss, build_optimizer
from ixt.training.undo import Undo
from ixt.training.watch import choose_micro_step

MICRO, SIDE, CLASSES = 4, 8, 5


def small_model() -> nn.Module:
    """Batch norm has statistics, and a count of its batches."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, CLASSES)
    )


def recipe_with(optimizer: str) -> Recipe:
    return parse_recipe(
        {
            "model": {"name": "small"},
            "optim": {"name": optimizer, "lr": 0.05, "max_norm": 1.0},
            "ema": {"decay": 0.9},
            "engine": {"global_batch_size": 2 * MICRO, "micro_batch_size": MICRO},
        }
    )


def batch(update: int, micro: int, device: str) -> Batch:
    draw = torch.Generator().manual_seed(10 * update + micro)
    images = torch.rand(MICRO, 3, SIDE, SIDE, generator=draw).to(device)
    targets = torch.rand(MICRO, CLASSES, generator=draw).softmax(dim=1).to(device)
    return Batch(images, targets, micro, update, update, {})


class Small:
    """A run, as far as `train_step` looks."""

    def __init__(self, optimizer: str = "adamw", undo: bool = False, device: str = "cpu") -> None:
        recipe = recipe_with(optimizer)
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = small_model().to(device)
        wrapped, stepper = accelerator.prepare(
            model, build_optimizer(model, recipe.optim), device_placement=[False, False]
        )
        ema = Ema(model)
        run: Any = SimpleNamespace(
            recipe=recipe,
            run_dir=Path(),
            accelerator=accelerator,
            model=model,
            wrapped=wrapped.train(),
            optimizer=stepper,
            loss=build_loss(recipe.optim),
            ema=ema,
            teacher=None,
            undo=Undo(accelerator, model, stepper, ema) if undo else None,
            graph_stream=None,
            keeps_gradients=False,
            peers=[Peer("here", 0)],
        )
        self.run = cast(Any, run)
        self.run.observers = self.log = IntervalLog(self.run)
        self.run.micro_step = choose_micro_step(self.run, micro_step, self.log)
        self.device = device

    def update(self, number: int, factor: float = 1.0) -> None:
        """One update on its own images; a factor that is not finite breaks it."""

        def batches() -> Iterator[Batch]:
            for micro in range(2):
                yield batch(number, micro, self.device)

        loss = self.run.loss
        self.run.loss = lambda logits, targets: loss(logits, targets) * factor
        self.log.update_done(1, train_step(self.run, 0, batches()))
        self.run.loss = loss

    def state(self) -> dict[str, Any]:
        """Weights, statistics, averages and all that the optimizer keeps."""
        if self.run.undo is not None:
            self.run.undo.finish_previous()
        saved = self.run.optimizer.state_dict()
        kept = {
            f"{p}/{key}": v for p, values in saved["state"].items() for key, v in values.items()
        }
        counts = {
            f"{n}/{key}": value
            for n, group in enumerate(saved["param_groups"])
            for key, value in group.items()
            if key != "params"
        }
        average = {f"ema/{name}": tensor for name, tensor in self.run.ema.tensors.items()}
        return {**self.run.model.state_dict(), **average, **kept, **counts}
