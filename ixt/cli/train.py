"""`ixt train`, `ixt finetune` and `ixt resume`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ixt.cli.app import app
from ixt.cli.options import (
    AutoResumeOption,
    DataOption,
    EndpointOption,
    MeetingOption,
    NodesOption,
    ProcessesOption,
    ProfileOption,
    RecipeArgument,
    RestartsOption,
    ResumeOption,
    RunDirOption,
    SetOption,
    all_overrides,
)

if TYPE_CHECKING:
    from ixt.distributed.launch.agent import Nodes


@app.command(rich_help_panel="Train")
def train(
    recipe: RecipeArgument,
    data: DataOption = None,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    auto_resume: AutoResumeOption = False,
    num_processes: ProcessesOption = None,
    overrides: SetOption = None,
    nodes: NodesOption = None,
    rdzv_endpoint: EndpointOption = None,
    rdzv_id: MeetingOption = None,
    max_restarts: RestartsOption = None,
    profile: ProfileOption = 0,
) -> None:
    """Train a recipe.

    Example: `ixt train recipes/inceptionnext_tiny.yaml --data /data/imagenet`

    Exit status: 0 at the end; 2 for a mistake, named in one line; 130, 143 or 138 after Ctrl-C,
    SIGTERM or SIGUSR1, when the run is saved and can go on; another one for a crash.
    """
    from ixt.distributed.launch.agent import parse_nodes

    machines = parse_nodes(nodes, rdzv_endpoint, rdzv_id, max_restarts)
    settings = all_overrides(overrides, data)
    _train(recipe, settings, run_dir, resume, auto_resume, num_processes, machines, profile)


@app.command(rich_help_panel="Train")
def finetune(
    recipe: RecipeArgument,
    source: Annotated[
        Path, typer.Option("--from", help="Weights: a run, a checkpoint, or a weights file.")
    ],
    data: DataOption = None,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    auto_resume: AutoResumeOption = False,
    num_processes: ProcessesOption = None,
    overrides: SetOption = None,
    nodes: NodesOption = None,
    rdzv_endpoint: EndpointOption = None,
    rdzv_id: MeetingOption = None,
    max_restarts: RestartsOption = None,
    profile: ProfileOption = 0,
) -> None:
    """Train a recipe from the weights of another run; averaged weights are preferred.

    Example: `ixt finetune recipes/inceptionnext_base_384.yaml --from runs/inceptionnext_base
    --data /data/imagenet`
    """
    from ixt.distributed.launch.agent import parse_nodes

    machines = parse_nodes(nodes, rdzv_endpoint, rdzv_id, max_restarts)
    settings = all_overrides(overrides, data)
    _train(recipe, settings, run_dir, resume, auto_resume, num_processes, machines, profile, source)


@app.command(rich_help_panel="Train")
def resume(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    data: DataOption = None,
    num_processes: ProcessesOption = None,
    overrides: SetOption = None,
    nodes: NodesOption = None,
    rdzv_endpoint: EndpointOption = None,
    rdzv_id: MeetingOption = None,
    max_restarts: RestartsOption = None,
    profile: ProfileOption = 0,
) -> None:
    """Go on with a run where it stopped, mid-epoch too, on any number of processes.

    Example: `ixt resume runs/inceptionnext_tiny --num-processes 4`
    """
    from ixt.checkpoint.folder import checkpoint_folders
    from ixt.distributed.launch.agent import parse_nodes
    from ixt.errors import CheckpointError
    from ixt.recipe import RUN_RECIPE

    recipe = run / RUN_RECIPE
    if not recipe.is_file():
        raise CheckpointError(f"{run}: holds no run: there is no {RUN_RECIPE}; give a run's folder")
    if not checkpoint_folders(run):
        raise CheckpointError(
            f"{run}: no checkpoint to resume; start it again with: "
            f"ixt train {recipe} --run-dir {run}"
        )
    machines = parse_nodes(nodes, rdzv_endpoint, rdzv_id, max_restarts)
    settings = all_overrides(overrides, data)
    _train(str(recipe), settings, run, True, False, num_processes, machines, profile)


def _train(
    name: str,
    settings: list[str],
    run_dir: Path | None,
    resume: bool,
    auto_resume: bool,
    num_processes: int | None,
    nodes: Nodes | None,
    profile: int,
    source: Path | None = None,
) -> None:
    from ixt.distributed.launch.start import in_processes
    from ixt.files import refuse_url
    from ixt.recipe import find_recipe, load_recipe

    path = find_recipe(name)
    recipe = load_recipe(path, settings)
    folder = run_dir or Path("runs") / path.stem
    refuse_url(folder)
    status = in_processes(num_processes, nodes, recipe.num_shares, folder)
    if status is not None:
        sys.exit(status)
    from ixt.checkpoint.folder import checkpoint_folders
    from ixt.training.finetune import finetune
    from ixt.training.loop import train

    # Processes that start again within a run always go on with it.
    may_resume = auto_resume or (nodes is not None and nodes.restarts)
    resume = resume or (may_resume and bool(checkpoint_folders(folder)))
    if source is None:
        train(recipe, folder, resume, profile_steps=profile)
    else:
        finetune(recipe, folder, source, resume, profile_steps=profile)
