"""Loss, optimizer and learning rate from a recipe.

The learning rate is a pure function of the update count, so nothing about it needs saving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2, get_optimizer_info
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn

from ixt.errors import RecipeError, first_line
from ixt.recipe import Optim, Recipe, Teacher

Loss = Callable[[Tensor, Tensor], Tensor]


def build_optimizer(
    model: nn.Module, optim: Optim, in_graph: bool = False, fused: bool = False
) -> torch.optim.Optimizer:
    """Build timm's optimizer by name, without weight decay on biases and 1-D parameters.

    Args:
        model: its trainable parameters are grouped; with layer decay each group carries an
            `lr_scale`.
        optim: the recipe's section.
        in_graph: its steps will be recorded as a CUDA graph: one kernel that keeps its counts on
            the device; adamw only.
        fused: take torch's kernel that reads and writes weights and moments once, where AdamW's
            arguments leave that open; other optimizers have none.

    Raises:
        RecipeError: unknown optimizer, or an argument that it does not take.
    """
    given = {"betas": optim.betas, "eps": optim.eps}
    given = {key: value for key, value in given.items() if value is not None}
    kwargs = dict(optim.kwargs)
    if in_graph:
        kwargs = {"fused": True, **kwargs, "capturable": True}
    elif fused and optim.name == "adamw" and not kwargs.keys() & {"foreach", "differentiable"}:
        kwargs = {"fused": True, **kwargs}
    try:
        _refuse_unused(optim.name, given)
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model,
            opt=optim.name,
            lr=optim.lr,
            weight_decay=optim.weight_decay,
            momentum=optim.momentum,
            layer_decay=optim.layer_decay,
            param_group_fn=None if optim.weight_decay or optim.layer_decay else _one_group,
            **given,
            **kwargs,
        )
        return optimizer
    # torch's optimizers raise RuntimeError for flags that contradict each other.
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise RecipeError(f"optim.name: {optim.name}: {first_line(error)}") from error


def _refuse_unused(name: str, given: Mapping[str, Any]) -> None:
    """Refuse settings that timm would silently ignore, and optimizers that ixt cannot drive."""
    info = get_optimizer_info(name.lower().removeprefix("lookahead_"))
    if info.second_order:
        raise RecipeError(
            f"optim.name: {name} needs second-order gradients, which ixt does not compute; choose "
            "a first-order optimizer, e.g. adamw"
        )
    takes = {"betas": info.has_betas, "eps": info.has_eps}
    for key in given:
        if not takes[key]:
            raise RecipeError(f"optim.{key}: {name} has no such setting; set it to null")


def _one_group(model: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters as one group, for when nothing divides them into several."""
    return [{"params": [p for p in model.parameters() if p.requires_grad]}]


def learning_rate(recipe: Recipe, updates_per_epoch: int) -> Callable[[int], float]:
    """The learning rate as a function of the number of updates already done.

    Args:
        recipe: its sections optim, schedule and curriculum count.
        updates_per_epoch: optimizer updates in one epoch.

    Source: timm 1.0.31's schedulers, warm-up overlapping the curve (`warmup_prefix` off) as in the
    paper's runs.
    """
    schedule = recipe.schedule
    probe = torch.optim.SGD([torch.zeros(1)], lr=recipe.optim.lr)
    scheduler, _ = create_scheduler_v2(
        probe,
        sched=schedule.name,
        num_epochs=schedule.epochs,
        warmup_epochs=schedule.warmup_epochs,
        warmup_lr=schedule.warmup_lr,
        min_lr=schedule.min_lr,
        cooldown_epochs=schedule.cooldown_epochs,
        decay_epochs=schedule.decay_epochs,
        decay_milestones=list(schedule.decay_milestones),
        decay_rate=schedule.decay_rate,
        step_on_epochs=schedule.unit == "epoch",
        updates_per_epoch=updates_per_epoch,
    )

    places = schedule.places(recipe.image_size_by_epoch())

    def at(update: int) -> float:
        epoch, within = divmod(update, updates_per_epoch)
        place = places[epoch]
        if schedule.unit == "epoch":
            scheduler.step(place)
        else:
            width = places[epoch + 1] - place if within else 0.0
            scheduler.step_update(place * updates_per_epoch + width * within)
        return float(probe.param_groups[0]["lr"])

    return at


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate times its own layer-decay scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def build_loss(optim: Optim, class_weights: Tensor | None = None) -> Loss:
    """The loss of logits (B, C) against target probabilities (B, C), averaged over the batch.

    A row of zero targets (an image left out) adds nothing and still counts in the average, so the
    gradient of the others does not depend on it. Nor does it on their weights: the sum is divided
    by the number of images, so that an update's loss is the same for any cut into micro-batches.

    Args:
        optim: the recipe's section.
        class_weights: (C,) on the device of the logits, see `ixt.training.class_weights`; an image
            weighs the sum of its target's probabilities times these. None weighs all the same.

    Source: timm 1.0.31 SoftTargetCrossEntropy and BinaryCrossEntropy. Where targets are not mixed
    or smoothed, weighted cross entropy is torch's CrossEntropyLoss with `weight`, before reduction.
    """
    losses_of = _soft_cross_entropy if optim.loss == "cross_entropy" else _bce(optim)
    if class_weights is None:
        return lambda logits, targets: losses_of(logits, targets).mean()

    def weighted(logits: Tensor, targets: Tensor) -> Tensor:
        # Not a matrix product, which would be rounded to TF32.
        weights = (targets * class_weights).sum(dim=1)
        return (losses_of(logits, targets) * weights).mean()

    return weighted


def distilled(loss: Loss, teacher: Teacher) -> Loss:
    """The loss of logits (B, C) against targets (B, 2, C) that a teacher takes part in.

    The targets are the labels' probabilities and the teacher's log-probabilities. An image that was
    left out adds nothing, and still counts in the average.

    Args:
        loss: that of the labels.
        teacher: the recipe's section.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; for hard targets
    Touvron et al. 2020, "Training data-efficient image transformers" (arXiv 2012.12877).
    """
    weight, temperature = teacher.weight, teacher.temperature

    def divergence(logits: Tensor, taught: Tensor) -> Tensor:
        if teacher.hard:
            return F.cross_entropy(logits.float(), taught.argmax(dim=1), reduction="none")
        ours, theirs = (F.log_softmax(x.float() / temperature, dim=1) for x in (logits, taught))
        each = F.kl_div(ours, theirs, reduction="none", log_target=True)
        return each.sum(dim=1) * temperature**2

    def both(logits: Tensor, targets: Tensor) -> Tensor:
        labels, taught = targets.unbind(1)
        present = (labels.sum(dim=1) > 0).float()
        learned = (divergence(logits, taught) * present).mean()
        return (1 - weight) * loss(logits, labels) + weight * learned

    return both


def _bce(optim: Optim) -> Loss:
    def losses_of(logits: Tensor, targets: Tensor) -> Tensor:
        present = (targets.sum(dim=1) > 0).float()
        if optim.bce_target_threshold is not None:
            targets = (targets > optim.bce_target_threshold).to(targets.dtype)
        losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
        return losses.mean(dim=1) * present

    return losses_of


def _soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.sum(-targets * F.log_softmax(logits.float(), dim=1), dim=1)
