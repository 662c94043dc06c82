"""CUDA graphs on a machine without a GPU: recording runs nothing, a replay does the work again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ixt import engine
from ixt import train as training
from ixt.engine import step_graph
from ixt.engine.step_graph import Recorded
from ixt.recipe import Engine


class AnyStream:
    """A stream that has done its work when it is given it."""

    def wait_stream(self, stream: object) -> None: ...


def record(work: Callable[[], Tensor], stream: object, pool: object) -> Recorded:
    """In the place of `step_graph.record`."""
    result = torch.zeros(())
    return Recorded(lambda: result.copy_(work()), "pool")


Places = set[tuple[int, ...]]


def stand_in(replace: Callable[[Any, str, Any], None]) -> Places:
    """Let updates be recorded on a CPU, if a recipe says so.

    Learning rates are rounded as graphs read them, also for runs without one, to compare bits.

    Args:
        replace: setattr, or what takes it back later.

    Returns:
        Where the gradients were after each recorded update; graphs would look nowhere else.
    """

    def graph_stream(settings: Engine, _: torch.device) -> AnyStream | None:
        return AnyStream() if settings.cuda_graph else None

    set_rate = training.set_learning_rate

    def set_rounded(optimizer: torch.optim.Optimizer, rate: float) -> None:
        set_rate(optimizer, rate)
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32).item()

    step = training.train_step
    places: Places = set()

    def noting(run: Any, number: int, *rest: Any) -> None:
        step(run, number, *rest)
        if run.graph is not None and number >= run.graph.warm_up:
            places.add(tuple(p.grad.data_ptr() for p in run.model.parameters()))

    replace(training, "train_step", noting)
    replace(training, "set_learning_rate", set_rounded)
    replace(torch.cuda, "current_stream", lambda *_: AnyStream())
    replace(torch.cuda, "stream", lambda *_: nullcontext())
    replace(step_graph, "check", lambda *_: None)
    replace(step_graph, "record", record)
    replace(engine, "graph_stream", graph_stream)
    return places
