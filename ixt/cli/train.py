"""`ixt train`, `ixt finetune` and `ixt resume`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ixt.cli.app import app, uncollected
from ixt.cli.options import (
    DataOption,
    ProcessesOption,
    RecipeArgument,
    RunDirOption,
    SetOption,
    advanced,
    all_overrides,
)

if TYPE_CHECKING:
    from ixt.recipe import Recipe

_machines = partial(typer.Option, rich_help_panel="Several machines")


@dataclass(frozen=True)
class RunFolder:
    """Where a run lies, and whether it may hold one already.

    Attributes:
        resume: Resume the run that --run-dir contains.
        auto_resume: Resume the run in --run-dir if there is one, else start it.
    """

    run_dir: RunDirOption = None
    resume: bool = False
    auto_resume: bool = False


@dataclass(frozen=True)
class Execution:
    """What may differ each time that a run is started or resumed.

    Attributes:
        nodes: Number of machines that train together, or its range. Run the same command on each
            machine.
        rdzv_endpoint: Address of the first machine, to which all others connect.
        rdzv_id: Rendezvous ID, if several runs share an endpoint.
        max_restarts: How often failed processes are restarted from the newest checkpoint.
        until: Save and stop after this step; `ixt resume` continues.
        profile: Number of steps to profile, after three warm-up steps. The trace is written to
            profile/ in the run's folder.
    """

    num_processes: ProcessesOption = None
    overrides: SetOption = None
    nodes: Annotated[str | None, _machines(metavar="N|MIN:MAX")] = None
    rdzv_endpoint: Annotated[str | None, _machines(metavar="HOST:PORT")] = None
    rdzv_id: Annotated[str | None, _machines(metavar="ID")] = None
    max_restarts: Annotated[
        int | None, _machines(min=0, show_default="3 for a range of machines, else 0")
    ] = None
    until: Annotated[int | None, typer.Option(metavar="STEP", min=1)] = None
    profile: Annotated[int, advanced(metavar="STEPS", min=0)] = 0


@app.command(rich_help_panel="Train")
def train(
    recipe: RecipeArgument, data: DataOption = None, *, folder: RunFolder, execution: Execution
) -> None:
    """Train the model that a recipe describes.

    Exit status: 0 when training has finished, 2 for a mistake of the user (one line explains it),
    130, 143 or 138 after Ctrl-C, SIGTERM or SIGUSR1 (the run is saved and can be resumed), and
    another one after a crash.

    Example: `ixt train recipes/inceptionnext_tiny.yaml --data /data/imagenet`
    """
    _train_named(recipe, data, folder, execution)


@app.command(rich_help_panel="Train")
def finetune(
    recipe: RecipeArgument,
    source: Annotated[Path, typer.Option("--from", metavar="WEIGHTS")],
    data: DataOption = None,
    match_by_order: Annotated[bool, advanced()] = False,
    *,
    folder: RunFolder,
    execution: Execution,
) -> None:
    """Train a recipe from the weights of another run.

    If the run has averaged weights, they are used.

    Example: `ixt finetune recipes/inceptionnext_base_384.yaml --from runs/inceptionnext_base
    --data /data/imagenet`

    Args:
        source: Weights to start from: a run (its newest checkpoint; RUN@best or RUN@step-120 names
            another one), a checkpoint, or a weights file.
        match_by_order: If the tensors in the file have other names, match them by their order. All
            shapes must agree.
    """
    _train_named(recipe, data, folder, execution, source, match_by_order)


@app.command(rich_help_panel="Train")
def resume(
    run: Path,
    data: DataOption = None,
    *,
    execution: Execution,
) -> None:
    """Resume a run exactly where it stopped, even within an epoch.

    The number of processes may differ from that of the first start.

    --set can change the settings that do not affect the results. These are, in section data: root,
    num_threads and prefetch_batches; in engine: micro_batch_size, kind, zero_stage,
    offload, ds_config, static_graph, bucket_mib and hang_timeout_s; in curriculum: the
    micro-batches of phases; in eval: batch_size; in teacher: checkpoint and cache, if they hold the
    same outputs; in run: all but seed.

    --set schedule.epochs makes a run longer, even a finished one, if its past learning rates stay
    the same: with a constant, step or multistep schedule, or during warm-up. With any schedule,
    schedule.cooldown_epochs adds epochs at the end.

    Example: `ixt resume runs/inceptionnext_tiny --num-processes 4`

    Args:
        run: Folder of the run, or its URL in a bucket.
    """
    from ixt.files import as_url

    overrides = all_overrides(execution.overrides, data)
    recipe = _recipe_of(run, overrides) if as_url(run) is None else None
    _train(recipe, run, RunFolder(run, resume=True), execution, overrides=overrides)


def _recipe_of(run: Path, overrides: list[str]) -> Recipe:
    """The recipe of the run in a folder of this machine."""
    from ixt.checkpoint.folder import checkpoint_folders
    from ixt.checkpoint.stored_recipe import recipe_to_resume
    from ixt.errors import CheckpointError
    from ixt.recipe import RUN_RECIPE

    if checkpoint_folders(run):
        return recipe_to_resume(run, overrides)
    recipe = run / RUN_RECIPE
    if not recipe.is_file():
        raise CheckpointError(
            f"{run}: contains no run ({RUN_RECIPE} is missing); give the folder of a run"
        )
    raise CheckpointError(
        f"{run}: no checkpoint to resume; start it again with: "
        f"ixt train {recipe} --run-dir {run}, or with ixt finetune if it started from weights"
    )


def _train_named(
    name: str,
    data: str | None,
    place: RunFolder,
    execution: Execution,
    source: Path | None = None,
    match_by_order: bool = False,
) -> None:
    from ixt.recipe import find_recipe, load_recipe

    path = find_recipe(name)
    recipe = load_recipe(path, all_overrides(execution.overrides, data))
    folder = place.run_dir or Path("runs") / path.stem
    _train(recipe, folder, place, execution, source, match_by_order)


def _train(
    recipe: Recipe | None,
    folder: Path,
    place: RunFolder,
    execution: Execution,
    source: Path | None = None,
    match_by_order: bool = False,
    overrides: Sequence[str] = (),
) -> None:
    """Train in a folder, or at an address in a bucket, whose recipe is read once it is here."""
    from ixt.checkpoint.folder import checkpoint_folders
    from ixt.checkpoint.weight_files import check_weights
    from ixt.distributed.launch.agent import in_processes
    from ixt.distributed.launch.nodes import parse_nodes
    from ixt.errors import Interrupted
    from ixt.files import as_url

    nodes = parse_nodes(
        execution.nodes, execution.rdzv_endpoint, execution.rdzv_id, execution.max_restarts
    )
    url = as_url(folder)
    run_dir = folder
    if url is not None:
        from ixt.runs.bucket.place import folder_for

        run_dir = folder_for(url)
    # Processes that start again within a run always resume it.
    may_resume = place.auto_resume or (nodes is not None and nodes.restarts)

    def resumes() -> bool:
        return place.resume or (may_resume and bool(checkpoint_folders(run_dir)))

    # Weights that those of the run replace are not read; what is in a bucket shows later.
    replaced = resumes() or (url is not None and may_resume)
    weights = source if source is None or replaced else check_weights(source)
    shares = recipe.num_shares if recipe is not None else None
    status = in_processes(execution.num_processes, nodes, shares, run_dir)
    if status is not None:
        sys.exit(status)
    with uncollected():
        from ixt.runs.bucket.place import in_bucket
        from ixt.runs.report.writer import ReportWriter
        from ixt.training.finetune import finetune
        from ixt.training.loop import train

    profile, until = execution.profile, execution.until
    kept = in_bucket(url, run_dir, place.resume, may_resume) if url else nullcontext(ReportWriter)
    with kept as report:
        resume = resumes()
        recipe = recipe or _recipe_of(run_dir, [*overrides])
        try:
            if weights is None:
                train(recipe, run_dir, resume, profile_steps=profile, until=until, report=report)
            else:
                finetune(recipe, run_dir, weights, resume, profile, match_by_order, until, report)
        except Interrupted as error:
            command = _resume_command(url or str(folder), execution)
            raise Interrupted(f"{error}; continue with: {command}", error.signum) from None


def _resume_command(folder: str, execution: Execution) -> str:
    """What continues a stopped run; the settings of `--set` and `--data` are in its recipe."""
    from ixt.distributed.launch import rank_file
    from ixt.distributed.launch.environment import launched

    words = ["ixt", "resume", folder]
    for name in ("num_processes", "nodes", "rdzv_endpoint", "rdzv_id", "max_restarts"):
        value = getattr(execution, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    foreign = launched() and not rank_file.has_agent()
    return shlex.join(words) + (", under the same launcher" if foreign else "")
