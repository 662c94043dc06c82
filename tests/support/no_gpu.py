"""CUDA graphs on a machine without a GPU: recording runs nothing, a replay does the work again."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ixt.kernels import step_graph
from ixt.kernels.step_graph import Recorded, check_updates
from ixt.recipe import Engine
from ixt.training import loop as training
from ixt.training import run as opening
from ixt.training.optimizer import set_learning_rate

TOLD_NCCL = "TORCH_NCCL_ASYNC_ERROR_HANDLING"


class AnyStream:
    """A stream that has done its work when it is given it."""

    def wait_stream(self, stream: object) -> None: ...


@dataclass
class Seen:
    """What a graph, and NCCL, would have found."""

    gradients: set[tuple[int, ...]] = field(default_factory=set)
    """Where they were after each recorded update; graphs would look nowhere else."""
    told: list[str | None] = field(default_factory=list)
    """How errors are handled, at the making of each process group."""


def record(work: Callable[[], Tensor], stream: object, pool: object) -> Recorded:
    """In the place of `step_graph.record`."""
    result = torch.zeros(())
    return Recorded(lambda: result.copy_(work()), "pool")


def stand_in(replace: Callable[[Any, str, Any], None]) -> Seen:
    """Let updates be recorded on a CPU, if a recipe says so.

    Learning rates are rounded as graphs read them, also for runs without one, to compare bits.

    Args:
        replace: setattr, or what takes it back later.
    """
    seen = Seen()
    _watch(replace, seen)

    def set_rounded(optimizer: torch.optim.Optimizer, rate: float) -> None:
        set_learning_rate(optimizer, rate)
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32).item()

    def update_stream(settings: Engine, _: torch.device) -> AnyStream | None:
        return AnyStream() if settings.cuda_graph else None

    replace(training, "set_learning_rate", set_rounded)
    replace(torch.cuda, "current_stream", lambda *_: AnyStream())
    replace(torch.cuda, "stream", lambda *_: nullcontext())
    replace(opening, "check_updates", lambda settings, cuda: check_updates(settings, cuda=True))
    replace(step_graph, "record", record)
    replace(opening, "update_stream", update_stream)
    return seen


def _watch(replace: Callable[[Any, str, Any], None], seen: Seen) -> None:
    step, join = training.train_step, dist.init_process_group

    def noting(run: Any, number: int, *rest: Any) -> Any:
        loss = step(run, number, *rest)
        if run.keeps_gradients and number >= run.micro_step.warm_up:
            seen.gradients.add(tuple(p.grad.data_ptr() for p in run.model.parameters()))
        return loss

    def joining(*args: Any, **kwargs: Any) -> None:
        seen.told.append(os.environ.get(TOLD_NCCL))
        join(*args, **kwargs)

    replace(training, "train_step", noting)
    replace(dist, "init_process_group", joining)
