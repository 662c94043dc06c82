"""A recipe's precision, threads and arithmetic as an Accelerator; seeds of the model's draws."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator

from ixt.distributed.arithmetic import set_math
from ixt.distributed.launch.rendezvous import wait_for_store
from ixt.errors import EngineError
from ixt.pipeline.decode.thread_pool import cores_per_process
from ixt.pipeline.plan.hashing import Draw, hash64
from ixt.recipe import Recipe


def build_accelerator(recipe: Recipe, run_dir: Path, **options: Any) -> Accelerator:
    """Join the process group if a launcher started this process, and set devices and precision.

    The engine section decides, trackers come from the run section and write to `run_dir`. Which
    engine trains is the business of `ixt.distributed.engine`, which gives `options`: further
    arguments for Accelerator, that win.

    Raises:
        EngineError: the batch cannot be divided over the processes, the precision does not exist
            here, or the process group's port is taken.
    """
    engine, cuda = recipe.engine, torch.cuda.is_available()
    if engine.precision == "fp16" and not cuda:
        raise EngineError("engine.precision: fp16 needs a CUDA device; use bf16 or fp32 here")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    for key, each in recipe.engines():
        if each.micro_batches % processes:
            raise EngineError(
                f"{key}: {each.micro_batches} micro-batches per update (global_batch_size / "
                f"micro_batch_size) cannot be shared by {processes} processes; change one of them"
            )
    _set_threads(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    set_math(recipe, cuda)
    settings: dict[str, Any] = {
        "cpu": not cuda,
        "mixed_precision": "no" if engine.precision == "fp32" else engine.precision,
        "gradient_accumulation_steps": engine.micro_batches // processes,
        "log_with": list(recipe.run.trackers) or None,
        "project_dir": str(run_dir),
    }
    if processes > 1 and os.environ.get("RANK", "0") != "0" and "MASTER_PORT" in os.environ:
        host, port = os.environ.get("MASTER_ADDR", "localhost"), int(os.environ["MASTER_PORT"])
        wait_for_store(host, port, "set MASTER_PORT to a free port in all processes")
    try:
        accelerator = Accelerator(**{**settings, **options})
    except dist.DistNetworkError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).splitlines()[0]
        raise EngineError(
            f"{where}: the process group cannot start there: {reason}; set MASTER_PORT to a free "
            "port"
        ) from error
    except ValueError as error:  # an unknown or missing tracker
        raise EngineError(f"run.trackers: {error}") from error
    _check_trackers(accelerator, recipe.run.trackers)
    return accelerator


def _check_trackers(accelerator: Accelerator, wanted: tuple[str, ...]) -> None:
    """Refuse a tracker that is not installed: Accelerate leaves it out silently."""
    there = {str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with}
    missing = [name for name in wanted if name not in there]
    if missing:
        raise EngineError(
            f"run.trackers: {missing[0]} is not installed; install it with pip, or leave it out"
        )


def _set_threads(local_processes: int) -> None:
    """Share the cores: several processes with all threads each are ten times slower."""
    if "OMP_NUM_THREADS" not in os.environ or local_processes > 1:
        torch.set_num_threads(cores_per_process(local_processes))


def seed_model(*keys: int) -> None:
    """Seed torch for the model's own draws (initial weights, drop path, dropout).

    Called with (seed,) for the weights and (seed, step, micro-batch) before each forward pass, it
    makes these draws a function of their place in the run, on any number of processes.
    """
    torch.manual_seed(int(hash64(*keys, Draw.MODEL) >> 1))
