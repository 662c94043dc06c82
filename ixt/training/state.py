"""The training state as named tensors, independent of the engine: what a checkpoint holds.

Everything else of a run (learning rate, data order, random draws) is a function of `step`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ixt.checkpoint.folder import Checkpoint
from ixt.checkpoint.writer import HostCopies
from ixt.distributed import batch_stats, engine
from ixt.distributed.engine import optimizer_state
from ixt.distributed.engine.shards import assembled, part_of, parts, whole
from ixt.errors import CheckpointError
from ixt.training.ema import Ema

Named = dict[str, Tensor]

_GROUP = "group:"  # no parameter's name has a colon


def capture(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    copies: HostCopies,
) -> tuple[dict[str, Named], dict[str, Any]]:
    """Copy the training state to the CPU. Every process must call it.

    The model is the plain module, not its wrapper. Wait for the copies before reading them.

    Returns:
        Named tensors per file (model, ema, optimizer, ranks), and JSON-able scalars. Batch-norm
        statistics in model and ema are averages over the processes; `ranks` has each one's own.
    """
    buffers = _rank_buffers(model, ema)
    ranks = {
        f"{owner}/{name}": tensor
        for owner, named in buffers.items()
        for name, tensor in batch_stats.gather(named).items()
    }
    with ExitStack() as stack:
        for named in buffers.values():
            stack.enter_context(batch_stats.averaged(named))
        weights = whole(model, {**model.state_dict(), **parts(model)})
        files = {"model": copies.take("model", weights)}
        files["ema"] = copies.take("ema", whole(model, ema.tensors)) if ema else {}
    tensors, scalars = _optimizer_state(accelerator, model, optimizer)
    files |= {name: copies.take(name, t) for name, t in (("optimizer", tensors), ("ranks", ranks))}
    scaler = accelerator.scaler
    return files, {"optimizer": scalars, "scaler": scaler.state_dict() if scaler else None}


def restore(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    checkpoint: Checkpoint,
) -> None:
    """Put a checkpoint's training state back, in place, on any number of processes.

    Raises:
        CheckpointError: it is of another model or optimizer.
    """
    try:
        engine.drop_gathered(accelerator)
        with assembled(model):
            model.load_state_dict(checkpoint.tensors("model"))
        optimizer_state.refresh_masters(optimizer)
        _load_optimizer(model, optimizer, checkpoint)
        _load_averages(model, ema, checkpoint)
        ranks = checkpoint.tensors("ranks")
        for owner, named in _rank_buffers(model, ema).items():
            own = {name: ranks[f"{owner}/{name}"] for name in named}
            batch_stats.restore(named, own, accelerator.process_index)
        if accelerator.scaler is not None and checkpoint.state["scaler"]:
            accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
    except (RuntimeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{checkpoint.path}: does not fit this recipe: {reason}") from error


def _load_averages(model: nn.Module, ema: Ema | None, checkpoint: Checkpoint) -> None:
    if ema is None:
        return
    averages, parameters = checkpoint.tensors("ema"), dict(model.named_parameters())
    for name, tensor in ema.tensors.items():
        tensor.copy_(part_of(parameters.get(name, tensor), averages[name]))


def _rank_buffers(model: nn.Module, ema: Ema | None) -> dict[str, Named]:
    buffers = batch_stats.float_buffers(model)
    averages = {name: ema.tensors[name] for name in buffers} if ema else {}
    return {"model": buffers, "ema": averages}


def _optimizer_state(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Named, dict[str, Any]]:
    state, settings = optimizer_state.read(model, optimizer, accelerator.device)
    tensors: Named = {}
    scalars: dict[str, Any] = {}
    for name, values in state.items():
        for key, value in values.items():
            kind = tensors if isinstance(value, Tensor) else scalars
            kind[f"{name}/{key}"] = value
    groups = []
    for number, group in enumerate(settings):
        # Some optimizers count their steps in the group, as a tensor.
        own = {key: value for key, value in group.items() if isinstance(value, Tensor)}
        tensors |= {f"{_GROUP}{number}/{key}": value for key, value in own.items()}
        groups.append({key: value for key, value in group.items() if key not in own})
    return tensors, {"parameters": scalars, "groups": groups}


def _load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint
) -> None:
    saved = checkpoint.state["optimizer"]
    # JSON has no tuples; optimizers unpack betas either way but compare them as tuples.
    groups = [
        {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        for values in saved["groups"]
    ]
    state: optimizer_state.State = {}
    for name, value in {**checkpoint.tensors("optimizer"), **saved["parameters"]}.items():
        owner, _, key = name.rpartition("/")
        if owner.startswith(_GROUP):
            groups[int(owner.removeprefix(_GROUP))][key] = value
        else:
            state.setdefault(owner, {})[key] = value
    optimizer_state.write(model, optimizer, state, groups)
