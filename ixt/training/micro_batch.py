"""The micro-batch that a device can hold: probed where the recipe says auto, else advised.

A probe trains the recipe's model on random images without its engine: two updates of one
micro-batch. Under ZeRO 1 to 3, which divide what it keeps whole, a larger one might fit.
"""

from __future__ import annotations

import gc
import os
import traceback
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from ixt.costs import input_bytes
from ixt.distributed.arithmetic import set_math
from ixt.distributed.group import join_group
from ixt.errors import EngineError
from ixt.models.out_of_memory import ran_out_of_memory
from ixt.monitor import activity
from ixt.pipeline.decode.factory import resolve_decoder
from ixt.recipe import Recipe
from ixt.training.ema import Ema
from ixt.training.optimizer import build_loss, build_optimizer

Build = Callable[[], nn.Module]
Fits = Callable[[int], bool]

_ON_CPU = 128  # more images at once gain nothing there
_USABLE = 0.9  # the rest is for NCCL and fragments
# Assumed, not measured: DALI's buffers and those of nvJPEG.
_DALI_BYTES = 2**29
# Of a decoded image of ImageNet before it is resized: 469 x 387 pixels on average.
_DECODED_BYTES = 3 * 469 * 387


def resolve_micro_batch(recipe: Recipe, stored: Recipe | None, build: Build) -> Recipe:
    """Replace `auto` in engine.micro_batch_size by a number. Every process must call it.

    The largest micro-batch that divides a process's share of an update, that mixing allows, and
    that fits on the device of every process; on a CPU the largest one up to 128.

    The number of `stored`, the resolved recipe of the run to continue, is kept if the present
    processes can share it. `build` makes the model, on the CPU.

    Raises:
        EngineError: the processes cannot share an update, or not even the smallest one fits.
    """
    if not recipe.engine.is_auto:
        return recipe
    return recipe.with_(engine={"micro_batch_size": _probe(recipe, stored, build)})


def resolve_phases(recipe: Recipe, stored: Recipe | None, build: Build) -> Recipe:
    """As `resolve_micro_batch`, for the phases of a curriculum: each at its largest images.

    Raises:
        EngineError: as for the recipe's own.
    """
    sizes = []
    for bounds in recipe.curriculum.bounds():
        epoch = max(bounds, key=lambda epoch: recipe.in_epoch(epoch).augment.image_size)
        before = stored.in_epoch(epoch) if stored is not None else None
        largest = resolve_micro_batch(recipe.in_epoch(epoch), before, build)
        sizes.append(largest.engine.micro_batch_size)
    return recipe.model_copy(update={"curriculum": recipe.curriculum.with_micro_batches(sizes)})


def _probe(recipe: Recipe, stored: Recipe | None, build: Build) -> int:
    """The number that stands for auto, see `resolve_micro_batch`."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    candidates = recipe.fitting_micro_batches(processes)
    if not candidates:
        raise EngineError(
            f"engine.micro_batch_size: auto: no micro-batch size lets {processes} processes share "
            f"engine.global_batch_size {recipe.engine.global_batch_size}; change one of them"
        )
    micro = stored.engine.micro_batch_size if stored is not None else 0
    if micro not in candidates:
        micro = _for_all(largest_that_fits(candidates, _judge(recipe, build)), processes)
    if not micro:
        raise EngineError(
            f"engine.micro_batch_size: auto: not even {candidates[-1]} images of "
            f"{recipe.augment.image_size} pixels fit on every device; choose a smaller model or "
            "image size"
        )
    return micro


def largest_that_fits(candidates: Sequence[int], fits: Fits) -> int:
    """The largest of some sizes that fits, by bisection; 0 where none does.

    `candidates` are given largest first; where one fits, so do all smaller ones.
    """
    place = bisect_left(candidates, True, key=fits)
    return candidates[place] if place < len(candidates) else 0


@contextmanager
def out_of_memory_explained(
    recipe: Recipe, build: Build, now: Callable[[], Recipe] | None = None
) -> Iterator[None]:
    """If memory runs out within a `with` block, say which micro-batch would fit.

    `now` gives the recipe of the epoch; None where it is always the same.

    Raises:
        EngineError: memory ran out.
    """
    try:
        yield
        return
    except RuntimeError as error:
        if not ran_out_of_memory(error):
            raise
        on_device = isinstance(error, torch.OutOfMemoryError)
        traceback.clear_frames(error.__traceback__)  # they hold activations
    raise EngineError(_advice(recipe, now() if now else recipe, build, on_device))


def _advice(run: Recipe, recipe: Recipe, build: Build, on_device: bool) -> str:
    """The error message after memory ran out: what did not fit in an epoch, and what to do."""
    where = f"cuda:{torch.cuda.current_device()}" if on_device else "the host"
    if activity.last().doing == "evaluating":
        size = recipe.eval.batch_size
        text = f"{where}: out of memory with eval.batch_size {size}"
        return f"{text}; lower it and continue with --resume"
    micro = recipe.engine.micro_batch_size
    text = f"{where}: out of memory with engine.micro_batch_size {micro}"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    smaller = [m for m in recipe.fitting_micro_batches(processes) if m < micro]
    regroup = not smaller and recipe.augment.mixes  # a run keeps its mixing group
    if regroup:
        smaller = [m for m in _ungrouped(recipe).fitting_micro_batches(processes) if m < micro]
    if not smaller:
        return f"{text}; no smaller micro-batch is possible; choose a smaller model or image size"
    best = smaller[0]
    if on_device:
        best = largest_that_fits(smaller, lambda size: device_holds(recipe, build, size))
    if not best:
        return f"{text}; not even {smaller[-1]} fits; choose a smaller model or image size"
    what = f"{text}; {best} fits" if on_device else f"{text}; try {best}"
    if micro != run.engine.micro_batch_size:
        size = recipe.augment.image_size
        return (
            f"{what}: give it to the phase of {size} px in the recipe, and continue with --resume"
        )
    setting = f"--set engine.micro_batch_size={best}"
    if regroup:
        return (
            f"{what}, but only in a new run, because it changes which images are mixed: {setting} "
            f"--set augment.mixing_group={best}"
        )
    return f"{what}: {setting} --auto-resume"


def _ungrouped(recipe: Recipe) -> Recipe:
    return recipe.with_(augment={"mixing_group": None})


def _judge(recipe: Recipe, build: Build) -> Fits:
    if not torch.cuda.is_available():
        return lambda size: size <= _ON_CPU
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return lambda size: device_holds(recipe, build, size)


def device_holds(recipe: Recipe, build: Build, micro: int) -> bool:
    """Whether a CUDA device can train with a micro-batch and keeps a tenth of its memory free.

    In the run's arithmetic, as TF32 and cuDNN's trials of its algorithms take memory of their own.
    """
    set_math(recipe, cuda=True)
    _clean()
    torch.cuda.reset_peak_memory_stats()
    free, total = torch.cuda.mem_get_info()
    others = total - free - torch.cuda.memory_reserved()
    try:
        train_twice(recipe, build, micro, torch.device("cuda"))
        side, waiting = recipe.augment.image_size, recipe.data.prefetch_batches
        images = input_bytes(micro, side, waiting) + _dali_bytes(recipe, micro)
        return others + torch.cuda.max_memory_reserved() + images <= _USABLE * total
    except torch.OutOfMemoryError:
        return False
    finally:
        _clean()


def _dali_bytes(recipe: Recipe, micro: int) -> float:
    """What DALI takes past torch's allocator, if it decodes."""
    if resolve_decoder(recipe.data.decoder) != "dali":
        return 0.0
    return _DALI_BYTES + micro * _DECODED_BYTES


def train_twice(recipe: Recipe, build: Build, micro: int, device: torch.device) -> None:
    """Do two updates on random images; in the second, all of the optimizer's state exists.

    With engine.cuda_graph also an evaluation's forward pass beside the memory of a recorded update.
    """
    engine, size = recipe.engine, recipe.augment.image_size
    model = build().to(device).train()
    optimizer, loss = build_optimizer(model, recipe.optim), build_loss(recipe.optim)
    ema = Ema(model) if recipe.ema.decay is not None else None
    images = torch.rand(micro, 3, size, size, device=device)
    if engine.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(engine.precision)
    for _ in range(2):
        with torch.autocast(device.type, low, enabled=low is not None):
            logits = model(images)
        targets = torch.full_like(logits, 1 / logits.shape[1], dtype=torch.float32)
        torch.autograd.backward(loss(logits, targets))
        optimizer.step()
        optimizer.zero_grad()
        if ema is not None:
            ema.update(0.5)
    if engine.cuda_graph:
        del logits, targets
        _evaluate_beside_graph(model, recipe, device)


@torch.no_grad()
def _evaluate_beside_graph(model: nn.Module, recipe: Recipe, device: torch.device) -> None:
    """A forward pass while what an update needed is held, as graphs hold it in a pool of theirs."""
    held = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    _clean()
    pool = torch.empty(max(0, held), dtype=torch.uint8, device=device)
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.engine.precision)
    images = torch.rand(
        recipe.eval.batch_size, 3, recipe.eval_size, recipe.eval_size, device=device
    )
    with torch.autocast(device.type, low, enabled=low is not None):
        model.eval()(images)
    del pool


def _for_all(micro: int, processes: int) -> int:
    """The minimum over all processes; joins the process group first, if nobody has."""
    if processes == 1:
        return micro
    cuda = torch.cuda.is_available()
    if not dist.is_initialized():
        join_group()
    least = torch.tensor(micro, device="cuda" if cuda else "cpu")
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return int(least)


def _clean() -> None:
    gc.collect()
    torch.cuda.empty_cache()
