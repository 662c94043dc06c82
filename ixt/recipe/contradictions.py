"""Contradictions between sections of a recipe: values that are right by themselves only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from ixt.recipe.augment import Augment
from ixt.recipe.curriculum import MICRO_BATCH, Curriculum
from ixt.recipe.data import Data
from ixt.recipe.engine import Engine
from ixt.recipe.model import Model
from ixt.recipe.optim import Optim, Schedule
from ixt.recipe.run import Eval, RunSettings
from ixt.recipe.section import Problem
from ixt.recipe.teacher import Teacher

_ELEMENTWISE = ("adamw", "lion", "nadamw", "rmsproptf", "sgd")
"""Optimizers that treat every weight alone, whatever the shape of its parameter.

ZeRO 1 to 3 lays parameters end to end; lamb, lars, adamp, adafactorbv, muon and adan then step
otherwise than on whole parameters.
"""


def _mixing_problems(augment: Augment, engine: Engine) -> Iterator[Problem]:
    micro, group = engine.micro_batch_size, augment.mixing_group
    if augment.mixes and engine.is_auto and group is None:
        yield (
            "engine.micro_batch_size",
            "is auto; give augment.mixing_group, so that which images are mixed does not depend "
            "on the device",
        )
    if augment.mixes and group is not None and micro % group:
        yield (
            "engine.micro_batch_size",
            f"{micro} is not a multiple of augment.mixing_group {group}; change one of them",
        )
    if augment.mixes and group is None and micro % 2:
        yield "engine.micro_batch_size", f"is {micro}; mixing pairs images: give an even number"
    if augment.repeats > engine.global_batch_size:
        yield (
            "augment.repeats",
            f"is {augment.repeats}, more than engine.global_batch_size "
            f"{engine.global_batch_size}; repeats of a sample share an update",
        )


def _fused_problems(model: Model, engine: Engine) -> Iterator[Problem]:
    if engine.zero_stage == 3 and model.fused is True:
        yield (
            "model.fused",
            "engine.zero_stage 3 gathers the weights of one layer at a time, but fused layers read "
            "those of several; give auto or false, or zero_stage 2",
        )
    folds = model.fused and engine.channels_last and engine.zero_stage != 3
    if model.fused_gemm != "cublas" and not folds:
        yield (
            "model.fused_gemm",
            "acts on folded blocks, which need model.fused: auto or true, engine.channels_last: "
            "true and no engine.zero_stage 3; set those, or fused_gemm: cublas",
        )


def _optimizer_problems(engine: Engine, optim: Optim) -> Iterator[Problem]:
    if engine.zero_stage and optim.name not in _ELEMENTWISE:
        yield (
            "optim.name",
            f"{optim.name} needs whole parameters, which engine.zero_stage {engine.zero_stage} "
            f"partitions; take one of {', '.join(_ELEMENTWISE)}, zero_stage: 0 or kind: ddp",
        )
    if engine.cuda_graph and optim.name != "adamw":
        yield (
            "engine.cuda_graph",
            f"optim.name is {optim.name}; only adamw keeps its step count and learning rate on the "
            "device; take it, or cuda_graph: false",
        )


def _sampling_problems(data: Data, augment: Augment, optim: Optim) -> Iterator[Problem]:
    if data.sampling_power == 1:
        return
    if augment.repeats > 1:
        yield (
            "data.sampling",
            f"is {data.sampling}, and augment.repeats {augment.repeats} shows images several times "
            "too, whatever their class; take one of them",
        )
    if optim.class_weights is not None:
        yield (
            "data.sampling",
            f"is {data.sampling}, and optim.class_weights are for a training set whose images are "
            "shown once each: rare classes would count twice; take one of them",
        )


def _patience_problems(schedule: Schedule, evaluation: Eval, run: RunSettings) -> Iterator[Problem]:
    count = math.ceil(schedule.total_epochs / evaluation.every_epochs)
    if run.patience is not None and run.patience > count - 2:
        yield (
            "run.patience",
            f"is {run.patience}, which can end nothing early: the run evaluates {count} times, and "
            f"the first is no wait; give {f'at most {count - 2}, or ' if count > 2 else ''}null",
        )


def _phase_problems(curriculum: Curriculum, schedule: Schedule) -> Iterator[Problem]:
    sized = any("augment.image_size" in phase.settings for phase in curriculum.phases)
    if schedule.follows == "pixels" and not sized:
        yield (
            "schedule.follows",
            "is pixels, and no phase of the curriculum has an augment.image_size; give epochs",
        )
    for number, phase in enumerate(curriculum.phases):
        if phase.until > schedule.total_epochs:
            yield (
                f"curriculum.phases.{number}.until",
                f"is {phase.until}, and the run has {schedule.total_epochs} epochs; give at most "
                "that",
            )


def _graph_problems(curriculum: Curriculum, model: Model, engine: Engine) -> Iterator[Problem]:
    if any(curriculum.problems()):
        return
    for number, (first, last) in enumerate(curriculum.bounds()):
        key = "model.drop_path_rate"
        rates = [curriculum.values(epoch).get(key) for epoch in (first, last)]
        # timm builds no layer for a rate of 0, and each layer's rate is its share of the largest.
        if any(isinstance(rate, int | float) and rate > model.drop_path_rate for rate in rates):
            yield (
                f"curriculum.phases.{number}.settings.{key}",
                f"exceeds {key} {model.drop_path_rate:g}, which the model is built with; give at "
                "most that",
            )
        if rates[0] != rates[1] and (engine.compile or engine.cuda_graph):
            yield (
                f"curriculum.phases.{number}.settings.{key}",
                "changes with every epoch, and engine.compile or engine.cuda_graph would prepare "
                "the model again each time; give one value per phase",
            )


def _phase_batch_problems(
    curriculum: Curriculum, augment: Augment, engine: Engine
) -> Iterator[Problem]:
    for number, phase in enumerate(curriculum.phases):
        if MICRO_BATCH not in phase.settings:
            continue
        key = f"curriculum.phases.{number}.settings.{MICRO_BATCH}"
        if augment.mixes and augment.mixing_group is None:
            yield (
                key,
                "needs augment.mixing_group, so that which images are mixed does not depend on it; "
                "give a number that divides all micro-batches",
            )
        if engine.kind == "deepspeed":
            yield key, "is not possible with engine.kind: deepspeed; remove it, or take ddp"


def _skipping_problems(engine: Engine, run: RunSettings) -> Iterator[Problem]:
    if engine.cuda_graph and run.on_nonfinite == "skip":
        yield (
            "engine.cuda_graph",
            "run.on_nonfinite: skip checks each update on the CPU; take stop, or cuda_graph: false",
        )


def _teacher_problems(engine: Engine, teacher: Teacher) -> Iterator[Problem]:
    if teacher.is_on and engine.cuda_graph:
        yield (
            "engine.cuda_graph",
            "is not possible with a teacher; set cuda_graph: false, or remove the teacher",
        )
    if teacher.is_live and engine.is_auto:
        yield (
            "engine.micro_batch_size",
            "is auto, which leaves no memory for the teacher; give a number, or teacher.cache",
        )


BETWEEN: tuple[tuple[tuple[str, ...], Callable[..., Iterator[Problem]]], ...] = (
    (("augment", "engine"), _mixing_problems),
    (("model", "engine"), _fused_problems),
    (("engine", "optim"), _optimizer_problems),
    (("engine", "run"), _skipping_problems),
    (("engine", "teacher"), _teacher_problems),
    (("data", "augment", "optim"), _sampling_problems),
    (("schedule", "eval", "run"), _patience_problems),
    (("curriculum", "schedule"), _phase_problems),
    (("curriculum", "model", "engine"), _graph_problems),
    (("curriculum", "augment", "engine"), _phase_batch_problems),
)
"""Checks between sections, by the sections that each needs."""
