"""DeepSpeed for an Accelerator: its configuration from the recipe, without its noise.

Weights, batch norm and optimizer stay fp32; bf16 is `torch_autocast`, as under DDP. DeepSpeed's own
bf16 and fp16 sections cast the weights, which breaks batch norm, and are refused.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType

from ixt.distributed.group import join_group
from ixt.errors import EngineError
from ixt.files import reason
from ixt.recipe import Engine, Recipe

_BYTES_PER_GRADIENT = 4
_LINEAR = F.linear  # ZeRO-3 puts its own in its place, for the rest of the process

# Where the recipe, or what a checkpoint can hold, leaves DeepSpeed's file no choice.
_REFUSED = {
    "optimizer": "the recipe's optim section decides it",
    "scheduler": "the recipe's schedule section decides it",
    "amp": "engine.precision decides it",
    "data_types": "weights and buffers stay fp32",
    "zero_optimization.offload_param": "only the optimizer can be offloaded (engine.offload)",
    "zero_optimization.zero_hpz_partition_size": "checkpoints support one way of partitioning "
    "weights",
    "zero_optimization.mics_shard_size": "checkpoints support one way of partitioning weights",
    "zero_optimization.zero_quantized_weights": "weights stay fp32",
    "zero_optimization.zenflow": "checkpoints do not contain its state",
    "compression_training": "checkpoints do not contain its state",
    "tensor_parallel": "ixt supports data parallelism only",
}

_MARK = "IXT_ALONE"
_ALONE = {
    **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
    _MARK: "1",
}

# DeepSpeed 0.19 calls names that torch 2.14 deprecates, once per collective.
_DEPRECATED = r"`?torch\.distributed\.(all_gather_into_tensor|reduce_scatter_tensor)"

# Logged about every optimizer but DeepSpeed's own; the recipe's list says which ones are right.
_UNTESTED = "using ZeRO with an untested optimizer"


def options(recipe: Recipe) -> dict[str, Any]:
    """Arguments for Accelerator.

    Raises:
        EngineError: DeepSpeed is not installed, or its file contradicts the recipe.
    """
    _require()
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs

    _quieten(deepspeed.utils.logger)

    if not cuda:
        # Built with a compiler at first use, and no faster than gloo.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    config = configuration(recipe, int(os.environ.get("WORLD_SIZE", "1")))
    return {
        "cpu": False,  # else Accelerate does not let DeepSpeed in; without CUDA it runs on the CPU
        "mixed_precision": "no",
        "deepspeed_plugin": DeepSpeedPlugin(hf_ds_config=config),
        "kwargs_handlers": [] if cuda else [InitProcessGroupKwargs(backend="gloo")],
    }


def configuration(recipe: Recipe, processes: int) -> dict[str, Any]:
    """DeepSpeed's configuration: what the recipe fixes, and the rest of `engine.ds_config`.

    Raises:
        EngineError: the file contradicts the recipe.
    """
    extra = _read(recipe.engine.ds_config)
    for key, why in _REFUSED.items():
        if _lookup(extra, key) is not None:
            raise EngineError(f"engine.ds_config: {key} cannot be set: {why}; remove it")
    config = _merge(extra, _fixed(recipe, processes))
    zero = config["zero_optimization"]
    # Small parameters kept whole would be gathered one by one after each update.
    zero.setdefault("stage3_param_persistence_threshold", 0)
    zero["offload_optimizer"].setdefault("pin_memory", torch.cuda.is_available())
    return config


@contextmanager
def readable_errors(accelerator: Accelerator) -> Iterator[None]:
    """Turn DeepSpeed's complaint about `engine.ds_config` into ours within a `with` block.

    Raises:
        EngineError: DeepSpeed complained.
    """
    if accelerator.distributed_type is not DistributedType.DEEPSPEED:
        yield
        return
    from deepspeed.runtime.config import DeepSpeedConfigError
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise EngineError(f"engine.ds_config: {key}: {first['msg']}") from error
    except DeepSpeedConfigError as error:
        raise EngineError(f"engine.ds_config: {error}") from error


def inlined(recipe: Recipe) -> Recipe:
    """The recipe with the content of its DeepSpeed file in it, as checkpoints keep it.

    Raises:
        EngineError: the file cannot be read.
    """
    if not isinstance(recipe.engine.ds_config, str):
        return recipe
    return recipe.with_(engine={"ds_config": _read(recipe.engine.ds_config)})


def join_alone() -> None:
    """Put into the environment what DeepSpeed reads there, where no launcher did.

    A single process gets a group of its own, without a port.
    """
    if "RANK" in os.environ:
        return
    os.environ.update(_ALONE)
    join_group(store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def tear_down(inner: Any = None) -> None:
    """Undo what DeepSpeed and `join_alone` did to this process.

    `inner` is DeepSpeed's engine, or None if it was not built.
    """
    from deepspeed import comm
    from deepspeed.runtime import torch_autocast

    if inner is not None:
        inner.destroy()
    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False  # the next run may be in fp32
    F.linear = _LINEAR
    if dist.is_initialized() and comm.is_initialized():
        comm.destroy_process_group()  # with the groups that DeepSpeed remembers
    if _MARK in os.environ:
        if dist.is_initialized():  # DeepSpeed had not come to know of it
            dist.destroy_process_group()
        for name in _ALONE:
            os.environ.pop(name, None)


def _fixed(recipe: Recipe, processes: int) -> dict[str, Any]:
    """The part of DeepSpeed's configuration that follows from the recipe."""
    engine = recipe.engine
    zero: dict[str, Any] = {
        "stage": engine.zero_stage,
        "offload_optimizer": {"device": engine.offload},
    }
    if engine.bucket_mib is not None:
        elements = engine.bucket_mib * 2**20 // _BYTES_PER_GRADIENT
        zero |= {"reduce_bucket_size": elements, "allgather_bucket_size": elements}
    off = {"enabled": False}
    return {
        "train_batch_size": engine.global_batch_size,
        "train_micro_batch_size_per_gpu": engine.micro_batch_size,
        "gradient_accumulation_steps": engine.micro_batches // processes,
        # DeepSpeed clips to 1.0 by default; 0 is off.
        "gradient_clipping": recipe.optim.max_norm or 0.0,
        "communication_data_type": engine.gradient_dtype,
        "zero_optimization": zero,
        # DeepSpeed's own CPU Adam is compiled at first use; torch's gives the same numbers.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "torch_autocast": _autocast(engine) if engine.precision == "bf16" else off,
        "bf16": off,
        "fp16": off,
    }


def _autocast(engine: Engine) -> dict[str, Any]:
    """DeepSpeed sends the gradients of the modules listed here in the autocast type."""
    autocast: dict[str, Any] = {"enabled": True, "dtype": "bfloat16"}
    if engine.gradient_dtype == "fp32":
        autocast["lower_precision_safe_modules"] = []
    return autocast


def _require() -> None:
    for name in ("deepspeed", "transformers"):  # Accelerate's DeepSpeed path imports transformers
        if find_spec(name) is None:
            raise EngineError(
                f"engine.kind: deepspeed needs the package {name}, which is not installed; run "
                "`pip install 'ixt[deepspeed]'`, or set engine.kind: ddp"
            )


def _read(source: str | dict[str, Any] | None) -> dict[str, Any]:
    if not isinstance(source, str):
        return source or {}
    try:
        content = json.loads(Path(source).read_text())
    except (OSError, ValueError) as error:
        why = reason(error)
        raise EngineError(f"engine.ds_config: {source}: is not readable ({why})") from error
    if not isinstance(content, dict):
        raise EngineError(f"engine.ds_config: {source}: is not a JSON object")
    return content


def _lookup(config: Mapping[str, Any], dotted: str) -> Any:
    value: Any = config
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _merge(extra: Mapping[str, Any], fixed: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Both together. `auto`, as Hugging Face writes it, leaves a key to the recipe."""
    merged = {key: value for key, value in extra.items() if value != "auto"}
    for key, value in fixed.items():
        given = merged.get(key, value)
        if isinstance(value, dict) and isinstance(given, dict):
            value = _merge(given, value, f"{path}{key}.")
        elif given != value:
            raise EngineError(
                f"engine.ds_config: {path}{key} is {json.dumps(given)} and the recipe makes it "
                f"{json.dumps(value)}; remove it from the file, or change the recipe"
            )
        merged[key] = value
    return merged


def _quieten(logger: logging.Logger) -> None:
    """Drop known harmless messages; the others are written to stderr, not among the results."""
    warnings.filterwarnings("ignore", message=_DEPRECATED, category=FutureWarning)
    logger.addFilter(_is_news)
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:  # DeepSpeed's own
            handler.setStream(sys.stderr)


def _is_news(record: logging.LogRecord) -> bool:
    return _UNTESTED not in record.getMessage()
