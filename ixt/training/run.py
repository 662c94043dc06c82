"""Everything a run needs, built from its recipe: model, optimizer, loaders, reporter.

`train.py` has the loop that uses it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ixt.checkpoint.schedule import SaveSchedule
from ixt.checkpoint.stored_recipe import stored_recipe
from ixt.checkpoint.writer import CheckpointWriter
from ixt.distributed import engine, rank_comparison
from ixt.distributed.machine import MACHINE, describe_machine
from ixt.distributed.rank_comparison import Process
from ixt.distributed.stop_agreement import StopAgreement
from ixt.errors import CheckpointError, DataError
from ixt.evaluate.records import Records
from ixt.files import reason, replace_text
from ixt.images.classes import output_classes
from ixt.images.data_digest import DataDigest, digest_images
from ixt.images.folders import Split
from ixt.images.index import Index
from ixt.images.label_sets import has_sets, single_classes
from ixt.kernels import check_updates, update_stream
from ixt.models import Base, describe_settings, own_settings, published_base
from ixt.monitor.observer import Observer
from ixt.monitor.positions import Peer
from ixt.monitor.reporter import Reporter
from ixt.pipeline.eval_loader import EvalLoader
from ixt.pipeline.from_recipe import (
    build_eval_loader,
    build_train_loader,
    refuse_unfit_sets,
    usable_index,
)
from ixt.pipeline.loader import TrainLoader
from ixt.recipe import RUN_RECIPE, Recipe, dump_recipe
from ixt.training.class_weights import class_weights
from ixt.training.ema import Ema
from ixt.training.model import build_model, unfetched
from ixt.training.optimizer import Loss, build_loss, build_optimizer, distilled, learning_rate
from ixt.training.patience import Patience
from ixt.training.resolve import resolve_recipe
from ixt.training.teacher.targets import RunTeacher, open_teacher
from ixt.training.undo import Undo

LEDGER_FORMAT = 2
"""Rows of format 1 have step, epoch and samples; 2 adds labels, data and the format itself."""

Prepare = Callable[[nn.Module], str]
"""Loads weights into the fresh model, and gives in words where they come from."""

MicroStep = Callable[[int, Tensor, Tensor], Tensor]
"""Adds the gradients of the micro-batch at a place of its update (from 0), given its images and
targets, and steps after the last one; gives the loss, 0-d."""


class RunReport(Observer):
    """Handles a run's results while it trains, e.g. its report; this base class does nothing."""

    def evaluated(self, step: int, records: Records) -> None:
        """An evaluation is done and its row is written; every process is at this point.

        Records are of the averaged weights where there are some, else of the raw ones.
        """

    def saved(self) -> None:
        """A checkpoint is on the disk; called in the thread that wrote it."""

    def finish(self) -> None:
        """Bring what was saved to where it is to be; called before the processes leave."""


class EpochStart(Protocol):
    """What is done before an epoch; see `ixt.training.phases`."""

    now: Recipe
    """The recipe of the epoch."""

    def begin_epoch(self, epoch: int) -> None:
        """Bring model and update to the settings of an epoch, counted from 0."""


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
    data: dict[Split, DataDigest]
    """What identifies the images of each split."""
    train_loader: TrainLoader
    eval_loader: EvalLoader
    teacher: RunTeacher | None
    """Adds its outputs to the targets; None where only labels are learned."""
    reporter: Reporter
    writer: CheckpointWriter
    undo: Undo | None
    """Rolls back updates that are not finite; None where they stop the run."""
    schedule: SaveSchedule
    peers: list[Peer]
    """The processes of the run."""
    devices: list[str]
    """Name of what each process computes on."""
    weights: str | None
    """Where the weights come from, in words; None where the seed gives them, or a checkpoint."""
    graph_stream: torch.cuda.Stream | None
    """Where updates are recorded as CUDA graphs; None where that is not done."""
    patience: Patience
    """Counts the evaluations without a better score."""
    ended_early: str | None = None
    """Why the run is over before its last epoch, in words; None where it is not."""
    ledger_format: int = LEDGER_FORMAT
    """Format of the rows to write; a run that is resumed keeps its own."""
    base: dict[str, Any] | None = None
    """What `ixt.models.Base.record` says about the initial weights, in the first process; None if
    the run starts from its seed."""
    pixels: str | None = None
    """How images are prepared, in words, compared with the model's own settings; None for a resumed
    run."""
    from_scratch: bool | None = None
    """Whether its first weights follow from the recipe; None where an earlier version began it."""
    keeps_gradients: bool = False
    """Whether gradients are zeroed in place, as recorded updates need it."""
    micro_step: MicroStep = field(init=False)
    """Trains on a micro-batch; this and what follows is there while the run is watched."""
    phases: EpochStart = field(init=False)
    observers: Observer = field(init=False)
    report: RunReport = field(init=False)
    stop: StopAgreement = field(init=False)

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer updates in an epoch."""
        return self.train_loader.updates_per_epoch

    @property
    def total_steps(self) -> int:
        """Optimizer updates of the whole run."""
        return self.recipe.schedule.total_epochs * self.updates_per_epoch


def open_run(
    recipe: Recipe,
    run_dir: Path,
    resume: bool = False,
    prepare: Prepare | None = None,
    base: Base | None = None,
) -> Run:
    """Build a run and its folder.

    The folder exists, and is held by `run_lock.locked`; without `resume` it must not hold
    checkpoints. `prepare` loads the weights of `base`; it is not called where the run's own ones
    take their place.

    Raises:
        IxtError: the data, the model, the engine or the run folder does not fit.
    """
    check_updates(recipe.engine, torch.cuda.is_available())
    recipe = resolve_recipe(recipe, run_dir, resume, base.info if base else None)
    if recipe.data.root is None:
        raise DataError("data.root: not set; give --data DIR, a folder with train/ and val/")
    accelerator = engine.start(recipe, run_dir)
    try:
        processes, warning = rank_comparison.compare(accelerator, recipe)
        run = _build(recipe, run_dir, accelerator, resume, prepare, processes)
        if warning is not None:
            run.reporter.say(warning)
        if run.accelerator.is_main_process:
            run.base = _base_record(run, base, resume)
            if not resume:
                own = own_settings(
                    recipe.model.name, base.info if base else None, recipe.eval.image_size
                )
                run.pixels = describe_settings(run.recipe, own)
            _describe(run)
    except BaseException:
        engine.abandon(accelerator)
        raise
    return run


def _build(
    recipe: Recipe,
    run_dir: Path,
    accelerator: Accelerator,
    resume: bool,
    prepare: Prepare | None,
    processes: list[Process],
) -> Run:
    train_index, eval_index, data = _open_data(recipe, accelerator)
    refuse_unfit_sets(recipe, train_index)
    class_names = output_classes(single_classes(train_index), recipe.model.num_classes)
    device = accelerator.device
    weights = class_weights(recipe.optim, train_index, class_names, device)
    start, prepare = (unfetched(recipe), None) if resume else (recipe, prepare)
    origins = [f"published weights of {start.model.name}"] if start.model.pretrained else []

    def load(fresh: nn.Module) -> None:
        if prepare is not None:
            origins.append(prepare(fresh))

    model = build_model(start, len(class_names), device, load).to(device)
    stream = update_stream(recipe.engine, device)
    fused = _takes_fused_step(recipe, device)
    optimizer = build_optimizer(model, recipe.optim, stream is not None, fused)
    train_loader = build_train_loader(recipe, train_index, class_names, accelerator)
    loss = build_loss(recipe.optim, weights)
    teacher = open_teacher(recipe, data["train"], class_names, accelerator)
    with torch.cuda.stream(stream):
        wrapped, optimizer = engine.prepare(accelerator, model, optimizer)
    if stream is not None:  # its broadcast of weights, before they are averaged or loaded
        torch.cuda.current_stream(device).wait_stream(stream)
    ema = _build_ema(recipe, model, accelerator)
    updates_per_epoch = train_loader.updates_per_epoch
    writer = CheckpointWriter(recipe.run.async_checkpoints, accelerator.is_main_process)
    return Run(
        recipe=recipe,
        run_dir=run_dir,
        accelerator=accelerator,
        model=model,
        wrapped=wrapped,
        optimizer=optimizer,
        loss=loss if teacher is None else distilled(loss, recipe.teacher),
        learning_rate=learning_rate(recipe, updates_per_epoch),
        ema=ema,
        class_names=class_names,
        data=data,
        train_loader=train_loader,
        eval_loader=build_eval_loader(
            recipe, eval_index, class_names, accelerator, has_sets(train_index)
        ),
        teacher=teacher,
        reporter=Reporter(
            accelerator,
            run_dir,
            recipe.schedule.total_epochs * updates_per_epoch,
            recipe.run.prometheus,
        ),
        writer=writer,
        undo=Undo(accelerator, model, optimizer, ema)
        if recipe.run.on_nonfinite == "skip"
        else None,
        schedule=SaveSchedule(recipe, updates_per_epoch, writer, device),
        peers=[Peer(process.host, process.pid) for process in processes],
        devices=[process.device for process in processes],
        weights=origins[-1] if origins else None,
        graph_stream=stream,
        patience=Patience(recipe.run.patience),
        from_scratch=prepare is None,
    )


def _takes_fused_step(recipe: Recipe, device: torch.device) -> bool:
    """Whether AdamW steps in torch's fused kernel, where kernels are on."""
    engine_settings = recipe.engine
    # fp16's scaler would not learn from the fused kernel that it skipped a step.
    suits = engine_settings.kind == "ddp" and engine_settings.precision != "fp16"
    return bool(recipe.model.fused) and device.type == "cuda" and suits


def _open_data(
    recipe: Recipe, accelerator: Accelerator
) -> tuple[Index, Index, dict[Split, DataDigest]]:
    """The images to train and to evaluate on, the same on every process, and their digests."""
    with accelerator.main_process_first():
        train, val = usable_index(recipe, "train"), usable_index(recipe, "val")
    data: dict[Split, DataDigest] = {"train": digest_images(train), "val": digest_images(val)}
    rank_comparison.compare_data(accelerator, data)
    return train, val, data


def _build_ema(recipe: Recipe, model: nn.Module, accelerator: Accelerator) -> Ema | None:
    if recipe.ema.decay is None:
        return None
    return Ema(model, on_swap=partial(engine.drop_gathered, accelerator))


def _base_record(run: Run, base: Base | None, resume: bool) -> dict[str, Any] | None:
    """The weights that the run started from, for its folder, checkpoints and model card."""
    if resume:
        stored = stored_recipe(run.run_dir)
        return stored.base if stored else None
    if base is None and run.recipe.model.pretrained:
        base = published_base(run.recipe.model)
    return base.record() if base else None


def _describe(run: Run) -> None:
    """Write the resolved recipe, and the machine with the base weights, into the run folder."""
    machine = json.dumps({**describe_machine(), "base": run.base}, indent=1) + "\n"
    for name, text in ((RUN_RECIPE, dump_recipe(run.recipe)), (MACHINE, machine)):
        try:
            replace_text(run.run_dir / name, text)
        except OSError as error:
            raise CheckpointError(
                f"{run.run_dir / name}: cannot be written ({reason(error)}); make room, "
                "allow writing, or move away what is there, then resume"
            ) from error
