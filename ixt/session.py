"""Everything a run needs, built from its recipe: model, optimizer, loaders, reporter.

`train.py` has the loop that uses it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from ixt.checkpoint import checkpoint_folders
from ixt.data.classes import output_classes, target_labels
from ixt.data.decode import Decoder, image_problem, make_decoder
from ixt.data.index import Index, load_index
from ixt.data.loader import EvalLoader, TrainLoader
from ixt.data.plan import build_planner
from ixt.data.scan import Split
from ixt.data.subset import take_subset
from ixt.ema import Ema
from ixt.errors import CheckpointError, DataError
from ixt.models import create_model, freeze, scale_classifier, sized
from ixt.optim import Loss, build_loss, build_optimizer, learning_rate
from ixt.recipe import Recipe, dump_recipe, load_recipe, parse_recipe
from ixt.report import Reporter
from ixt.runtime import build_accelerator, cores_per_process, describe_machine, seed_model

RECIPE = "recipe.yaml"

Prepare = Callable[[nn.Module], None]

# What may differ between a run and its continuation without changing what is computed.
_FREE = {
    "data": ("root", "num_threads", "prefetch_batches"),
    "engine": ("micro_batch_size",),
    "run": ("log_every_steps", "checkpoint_every_steps", "keep_last", "keep_best", "trackers"),
}


@dataclass
class Run:
    """A training run in memory."""

    recipe: Recipe
    run_dir: Path
    accelerator: Accelerator
    model: nn.Module
    """The plain module: evaluation, checkpoints and EMA use it."""
    wrapped: nn.Module
    """What the training step calls: the module under DDP, if there are several processes."""
    optimizer: torch.optim.Optimizer
    loss: Loss
    learning_rate: Callable[[int], float]
    ema: Ema | None
    class_names: tuple[str, ...]
    train_loader: TrainLoader
    eval_loader: EvalLoader
    reporter: Reporter

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
        run_dir: created if missing.
        resume: go on with the run in it; otherwise it must not hold checkpoints.
        prepare: called with the fresh model, to load weights for instance.

    Raises:
        IxtError: the data, the model, the engine or the run folder does not fit.
    """
    recipe = _settle(recipe, run_dir, resume)
    if recipe.data.root is None:
        raise DataError("data.root: not set; give --data DIR, a folder with train/ and val/")
    _make_folder(run_dir)
    accelerator = build_accelerator(recipe, run_dir)
    with accelerator.main_process_first():
        train_index = _usable_index(recipe, "train")
        eval_index = _usable_index(recipe, "val")
    class_names = output_classes(train_index.classes, recipe.model.num_classes)
    model = _build_model(recipe, len(class_names), prepare).to(accelerator.device)
    optimizer = build_optimizer(model, recipe.optim)
    train_loader = _train_loader(recipe, train_index, class_names, accelerator)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    run = Run(
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
        ema=Ema(model) if recipe.ema.decay is not None else None,
        class_names=class_names,
        train_loader=train_loader,
        eval_loader=build_eval_loader(recipe, eval_index, class_names, accelerator),
        reporter=Reporter(
            accelerator,
            run_dir,
            recipe.schedule.total_epochs * train_loader.updates_per_epoch,
        ),
    )
    _describe(run)
    return run


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
        _decoder(recipe, device),
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


def _make_folder(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        probe = run_dir / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{run_dir}: cannot write there: {error.strerror}; give another --run-dir"
        ) from error


def _usable_index(recipe: Recipe, split: Split) -> Index:
    assert recipe.data.root is not None
    index = take_subset(load_index(recipe.data.root, split), recipe, split)
    bad = index.unreadable
    if len(bad) and recipe.data.on_error == "stop":
        path = index.paths(bad[:1])[0]
        more = f" ({len(bad)} such files)" if len(bad) > 1 else ""
        raise DataError(
            f"{image_problem(path) or path}{more}; remove it, "
            "or set data.on_error: skip to leave such images out"
        )
    return index


def _build_model(recipe: Recipe, num_classes: int, prepare: Prepare | None) -> nn.Module:
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
    if settings.freeze is not None:
        freeze(model, settings.freeze)
    if recipe.engine.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if recipe.engine.compile:
        model.compile(mode=recipe.engine.compile_mode)
    return model


def _train_loader(
    recipe: Recipe, index: Index, class_names: tuple[str, ...], accelerator: Accelerator
) -> TrainLoader:
    planner = build_planner(recipe, target_labels(index, class_names), index.sizes)
    return TrainLoader(
        index,
        planner,
        _decoder(recipe, accelerator.device),
        recipe,
        num_classes=len(class_names),
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )


def _decoder(recipe: Recipe, device: torch.device) -> Decoder:
    data = recipe.data
    return make_decoder(
        data.decoder,
        device=device,
        num_threads=data.num_threads or cores_per_process(),
        prefetch=data.prefetch_batches,
        on_error=data.on_error,
    )


def _describe(run: Run) -> None:
    """Write the resolved recipe and the machine into the run folder."""
    run.accelerator.init_trackers("ixt")
    if run.accelerator.is_main_process:
        (run.run_dir / RECIPE).write_text(dump_recipe(run.recipe))
        machine = describe_machine()
        (run.run_dir / "machine.json").write_text(json.dumps(machine, indent=1) + "\n")
