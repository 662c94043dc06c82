"""Everything a run needs, built from its recipe: model, optimizer, loaders, reporter.

`train.py` has the loop that uses it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from ixt import engine, micro_batch
from ixt.checkpoint import checkpoint_folders
from ixt.checkpoint_writer import CheckpointWriter
from ixt.data.classes import output_classes, target_labels
from ixt.data.decode import Decoder, GpuDecoding, make_decoder
from ixt.data.image import image_problem
from ixt.data.index import Index, load_index
from ixt.data.loader import EvalLoader, TrainLoader
from ixt.data.plan import build_planner
from ixt.data.scan import Split
from ixt.data.subset import take_subset
from ixt.durable import replace_text
from ixt.ema import Ema
from ixt.engine.deepspeed import inlined
from ixt.errors import CheckpointError, DataError
from ixt.guard import alike
from ixt.guard.ranks import SlowRank
from ixt.guard.spikes import Spikes
from ixt.guard.undo import Undo
from ixt.kernels import apply_kernels
from ixt.models import create_model, freeze, scale_classifier, sized
from ixt.optim import Loss, build_loss, build_optimizer, learning_rate
from ixt.recipe import Recipe, dump_recipe, load_recipe, parse_recipe
from ixt.report import Reporter
from ixt.runtime import cores_per_process, describe_machine, seed_model

RECIPE = "recipe.yaml"

Prepare = Callable[[nn.Module], None]

# What may differ between a run and its continuation without changing what is computed.
_FREE = {
    "data": ("root", "num_threads", "prefetch_batches"),
    "engine": (
        "micro_batch_size",
        *("kind", "zero_stage", "offload", "ds_config", "static_graph", "bucket_mib"),
        "hang_timeout_s",
    ),
    "run": (
        "log_every_steps",
        "checkpoint_every_steps",
        "checkpoint_every_minutes",
        "async_checkpoints",
        "keep_last",
        "keep_best",
        "keep_every_epochs",
        "trackers",
        "prometheus",
        "on_nonfinite",
        "max_skips",
        "spike_sigma",
    ),
}


@dataclass
class Run:
    """A training run in memory."""

    recipe: Recipe
    run_dir: Path
    accelerator: Accelerator
    model: nn.Module
    """The plain module: checkpoints and EMA use it."""
    wrapped: nn.Module
    """What the training step and the evaluation call: the module in its engine."""
    optimizer: torch.optim.Optimizer
    loss: Loss
    learning_rate: Callable[[int], float]
    ema: Ema | None
    class_names: tuple[str, ...]
    train_loader: TrainLoader
    eval_loader: EvalLoader
    reporter: Reporter
    writer: CheckpointWriter
    undo: Undo | None
    """Takes back updates that are not finite; None where they stop the run."""
    spikes: Spikes
    slow_rank: SlowRank
    undone_running: int = 0
    """Updates taken back one after another, up to the last log row."""
    graph_stream: torch.cuda.Stream | None = None
    """Where an update is recorded as a CUDA graph; None where that is not done."""
    graph: engine.StepGraph | None = None
    """Runs an update, where it is recorded."""

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer updates in an epoch."""
        return self.train_loader.updates_per_epoch

    @property
    def total_steps(self) -> int:
        """Optimizer updates of the whole run."""
        return self.recipe.schedule.total_epochs * self.updates_per_epoch


def open_run(
    recipe: Recipe, run_dir: Path, resume: bool = False, prepare: Prepare | None = None
) -> Run:
    """Build a run and its folder.

    Args:
        recipe: with data.root set.
        run_dir: an existing folder, held by `run_lock.locked`.
        resume: go on with the run in it; otherwise it must not hold checkpoints.
        prepare: called with the fresh model, to load weights for instance.

    Raises:
        IxtError: the data, the model, the engine or the run folder does not fit.
    """
    stored = run_dir / RECIPE
    recipe = micro_batch.settle(
        inlined(recipe),
        stored if resume and stored.exists() else None,
        lambda: probe_model(recipe),
    )
    recipe = _settle(recipe, run_dir, resume)
    if recipe.data.root is None:
        raise DataError("data.root: not set; give --data DIR, a folder with train/ and val/")
    accelerator = engine.start(recipe, run_dir)
    try:
        hosts, warning = alike.compare(accelerator, recipe)
        run = _build(recipe, run_dir, accelerator, prepare, hosts)
        if warning is not None:
            run.reporter.say(warning)
        _describe(run)
    except BaseException:
        engine.abandon(accelerator)
        raise
    return run


def _build(
    recipe: Recipe,
    run_dir: Path,
    accelerator: Accelerator,
    prepare: Prepare | None,
    hosts: list[str],
) -> Run:
    with accelerator.main_process_first():
        train_index = _usable_index(recipe, "train")
        eval_index = _usable_index(recipe, "val")
    class_names = output_classes(train_index.classes, recipe.model.num_classes)
    device = accelerator.device
    model = _build_model(recipe, len(class_names), device, prepare).to(device)
    stream = engine.graph_stream(recipe.engine, device)
    optimizer = build_optimizer(model, recipe.optim, in_graph=stream is not None)
    train_loader = _train_loader(recipe, train_index, class_names, accelerator)
    with torch.cuda.stream(stream):
        wrapped, optimizer = engine.prepare(accelerator, model, optimizer)
    ema = _build_ema(recipe, model, accelerator)
    skips = recipe.run.on_nonfinite == "skip"
    return Run(
        recipe=recipe,
        run_dir=run_dir,
        accelerator=accelerator,
        model=model,
        wrapped=wrapped,
        optimizer=optimizer,
        loss=build_loss(recipe.optim),
        learning_rate=learning_rate(
            recipe.schedule, recipe.optim.lr, train_loader.updates_per_epoch
        ),
        ema=ema,
        class_names=class_names,
        train_loader=train_loader,
        eval_loader=build_eval_loader(recipe, eval_index, class_names, accelerator),
        reporter=Reporter(
            accelerator,
            run_dir,
            recipe.schedule.total_epochs * train_loader.updates_per_epoch,
            recipe.run.prometheus,
        ),
        writer=CheckpointWriter(recipe.run.async_checkpoints, accelerator.is_main_process),
        undo=Undo(accelerator, model, optimizer, ema) if skips else None,
        graph_stream=stream,
        spikes=Spikes(recipe.run.spike_sigma),
        slow_rank=SlowRank(hosts),
    )


def build_eval_loader(
    recipe: Recipe, index: Index, class_names: tuple[str, ...], accelerator: Accelerator
) -> EvalLoader:
    """This process's share of an evaluation.

    Raises:
        DataError: the split has classes that the model does not know.
    """
    device = accelerator.device
    return EvalLoader(
        index,
        target_labels(index, class_names),
        build_decoder(recipe, index, device),
        recipe,
        device=device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )


def _settle(recipe: Recipe, run_dir: Path, resume: bool) -> Recipe:
    """The recipe with its mixing group written down, checked against the run it continues."""
    folders = checkpoint_folders(run_dir)
    file = run_dir / RECIPE
    recipe = sized(recipe)
    if folders and not resume:
        raise CheckpointError(
            f"{run_dir}: holds a run already; add --resume to go on with it, "
            "or give another --run-dir"
        )
    group = recipe.augment.mixing_group
    if resume and folders and file.exists():
        old = load_recipe(file)
        group = group or old.augment.mixing_group
        recipe = _with_group(recipe, group)
        _check_same(old, recipe, file)
    settled = _with_group(recipe, group or recipe.mixing_group)
    # Checked again: the group of the run may not fit another micro-batch.
    return parse_recipe(settled.model_dump(mode="json"), str(file))


def _with_group(recipe: Recipe, group: int | None) -> Recipe:
    augment = recipe.augment.model_copy(update={"mixing_group": group})
    return recipe.model_copy(update={"augment": augment})


def _check_same(old: Recipe, new: Recipe, file: Path) -> None:
    was, now = old.model_dump(), new.model_dump()
    changes = [
        f"{section}.{key} was {was[section][key]!r} and is {value!r}"
        for section, values in now.items()
        for key, value in values.items()
        if value != was[section][key] and key not in _FREE.get(section, ())
    ]
    if changes:
        raise CheckpointError(
            f"{file}: the run to resume has another recipe: {'; '.join(changes)}; "
            "give the same recipe, or start a new run with another --run-dir"
        )


def _usable_index(recipe: Recipe, split: Split) -> Index:
    assert recipe.data.root is not None
    index = take_subset(load_index(recipe.data.root, split), recipe, split)
    if recipe.data.on_error == "stop":
        refuse_unreadable(index)
    return index


def refuse_unreadable(index: Index) -> None:
    """Refuse a split with files that are no images, before the work begins.

    Raises:
        DataError: there is such a file; the message names the first one and says what is wrong.
    """
    bad = index.unreadable
    if len(bad):
        (first,) = index.ranges(bad[:1])
        more = f" ({len(bad)} such files)" if len(bad) > 1 else ""
        raise DataError(
            f"{image_problem(first) or first.name}{more}; remove it, "
            "or set data.on_error: skip to leave such images out"
        )


def _build_model(
    recipe: Recipe, num_classes: int, device: torch.device, prepare: Prepare | None
) -> nn.Module:
    seed_model(recipe.run.seed)
    settings = recipe.model
    rates = {"drop_path_rate": settings.drop_path_rate, "drop_rate": settings.drop_rate}
    model = create_model(
        settings.name,
        num_classes=num_classes,
        pretrained=settings.pretrained,
        **{key: rate for key, rate in rates.items() if rate},
        **settings.kwargs,
    )
    if settings.head_init_scale != 1:
        scale_classifier(model, settings.head_init_scale)
    if prepare is not None:
        prepare(model)
    apply_kernels(model, recipe, device)
    if settings.freeze is not None:
        freeze(model, settings.freeze)
    # DeepSpeed lays weights end to end in NCHW, and cannot send others between processes; images in
    # NHWC make convolutions run in that order all the same.
    if recipe.engine.channels_last and recipe.engine.kind == "ddp":
        model = model.to(memory_format=torch.channels_last)
    if recipe.engine.compile:
        model.compile(mode=recipe.engine.compile_mode)
    return model


def probe_model(recipe: Recipe) -> nn.Module:
    """The model of a recipe as far as memory depends on it: fresh, and not compiled."""
    model = recipe.model.model_copy(update={"pretrained": False})
    settings = recipe.engine.model_copy(update={"compile": False})
    plain = recipe.model_copy(update={"model": model, "engine": settings})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return _build_model(plain, recipe.model.num_classes or 1000, device, None)


def _build_ema(recipe: Recipe, model: nn.Module, accelerator: Accelerator) -> Ema | None:
    if recipe.ema.decay is None:
        return None
    return Ema(model, on_swap=partial(engine.drop_gathered, accelerator))


def _train_loader(
    recipe: Recipe, index: Index, class_names: tuple[str, ...], accelerator: Accelerator
) -> TrainLoader:
    planner = build_planner(recipe, target_labels(index, class_names), index.sizes)
    return TrainLoader(
        index,
        planner,
        build_decoder(recipe, index, accelerator.device),
        recipe,
        num_classes=len(class_names),
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )


def build_decoder(recipe: Recipe, index: Index, device: torch.device) -> Decoder:
    """The decoder of a split's images, by the recipe's data section."""
    data = recipe.data
    return make_decoder(
        data.decoder,
        device=device,
        num_threads=data.num_threads or cores_per_process(),
        prefetch=data.prefetch_batches,
        on_error=data.on_error,
        gpu=GpuDecoding(data.decode_device, data.hw_decoder_load, _large_size(index)),
    )


def _large_size(index: Index) -> tuple[int, int]:
    """The 99th percentiles of height and width, in pixels."""
    height, width = np.percentile(index.sizes, 99, axis=0).astype(int).tolist()
    return height, width


def _describe(run: Run) -> None:
    """Write the resolved recipe and the machine into the run folder."""
    if run.accelerator.is_main_process:
        replace_text(run.run_dir / RECIPE, dump_recipe(run.recipe))
        machine = describe_machine()
        replace_text(run.run_dir / "machine.json", json.dumps(machine, indent=1) + "\n")
