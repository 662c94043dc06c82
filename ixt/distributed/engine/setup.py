"""From a recipe's engine section to an Accelerator, and to a model and optimizer it drives."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DDPCommunicationHookType,
    DistributedDataParallelKwargs,
    DistributedType,
)
from torch import nn

from ixt.distributed.accelerator import build_accelerator
from ixt.distributed.engine import deepspeed
from ixt.errors import EngineError, Interrupted
from ixt.recipe import Engine, Recipe

_HOOKS = {
    "fp32": DDPCommunicationHookType.NO,
    "bf16": DDPCommunicationHookType.BF16,
    "fp16": DDPCommunicationHookType.FP16,
}


def start(recipe: Recipe, run_dir: Path) -> Accelerator:
    """Join the processes of a training run under the recipe's engine.

    Raises:
        EngineError: see `build_accelerator`; or DeepSpeed is not installed, or its configuration
            contradicts the recipe.
    """
    if recipe.engine.kind == "ddp":
        _quieten()
        for _, each in recipe.engines():
            _check_static_graph(each, int(os.environ.get("WORLD_SIZE", "1")))
        return build_accelerator(recipe, run_dir, kwargs_handlers=[_ddp(recipe.engine)])
    options = deepspeed.options(recipe)
    deepspeed.join_alone()
    try:
        return build_accelerator(recipe, run_dir, **options)
    except BaseException:
        deepspeed.tear_down()
        raise
    finally:
        # A later Accelerator of this process may be without DeepSpeed.
        os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Hand a model and its optimizer to the engine.

    The model is on the accelerator's device, and stays usable as the plain module.

    Returns:
        What the training step and the evaluation call, and what steps it.

    Raises:
        EngineError: DeepSpeed does not understand its own settings.
    """
    wrapped: nn.Module
    with deepspeed.readable_errors(accelerator):
        wrapped, optimizer = accelerator.prepare(model, optimizer)
    return wrapped, optimizer


def drop_gathered(accelerator: Accelerator) -> None:
    """Have ZeRO-3 forget whole weights that it kept: it would keep using them after a change."""
    inner = _deepspeed_engine(accelerator)
    if inner is not None and accelerator.deepspeed_plugin.zero_stage == 3:
        inner.empty_partition_cache()


@contextmanager
def closing(accelerator: Accelerator) -> Iterator[None]:
    """`finish` at the end of a block, also where it was stopped; after a failure `abandon`."""
    try:
        yield
    except Interrupted:
        finish(accelerator)
        raise
    except BaseException:
        abandon(accelerator)
        raise
    finish(accelerator)


def finish(accelerator: Accelerator) -> None:
    """Close trackers and leave the process group; a later run of this process may join another."""
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        deepspeed.tear_down(_deepspeed_engine(accelerator))
    accelerator.end_training()


def abandon(accelerator: Accelerator) -> None:
    """Close trackers after a failure, and leave a group of several processes as it is.

    Taking it down may wait for processes that are gone, and hide from the launcher that this one
    failed. The exit of the process ends it.
    """
    if accelerator.num_processes == 1:
        finish(accelerator)
        return
    for tracker in accelerator.trackers:
        tracker.finish()


def _deepspeed_engine(accelerator: Accelerator) -> Any:
    wrapper = getattr(accelerator, "deepspeed_engine_wrapped", None)
    return wrapper.engine if wrapper is not None else None


def _quieten() -> None:
    """Ignore DDP's warnings about a model and settings that are as they should be."""
    # torch 2.14 renames it; Accelerate has no field for the new name yet.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    # Depthwise weights have dimensions of one element, whose strides mean nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)


def _check_static_graph(engine: Engine, processes: int) -> None:
    """Refuse what fails an internal assert of torch 2.14's DDP: a first backward without sync."""
    accumulation = engine.micro_batches // processes
    if engine.static_graph and processes > 1 and accumulation > 1:
        raise EngineError(
            f"engine.static_graph: does not work with {accumulation} micro-batches per process "
            "and update; remove it, or increase engine.micro_batch_size"
        )


def _ddp(engine: Engine) -> DistributedDataParallelKwargs:
    bucket: dict[str, Any] = {}
    if engine.bucket_mib is not None:
        bucket["bucket_cap_mb"] = engine.bucket_mib
    return DistributedDataParallelKwargs(
        broadcast_buffers=False,  # batch_stats averages them where they are read
        gradient_as_bucket_view=True,
        static_graph=engine.static_graph,
        comm_hook=_HOOKS[engine.gradient_dtype],
        **bucket,
    )
