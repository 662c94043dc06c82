"""`ixt train` and `ixt finetune`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import (
    DataOption,
    ProcessesOption,
    RecipeArgument,
    ResumeOption,
    RunDirOption,
    SetOption,
    app,
)


@app.command(rich_help_panel="Train")
def train(
    recipe: RecipeArgument,
    data: DataOption = None,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    num_processes: ProcessesOption = None,
    overrides: SetOption = None,
) -> None:
    """Train a recipe.

    Example: `ixt train recipes/inceptionnext_tiny.yaml --data /data/imagenet`
    """
    _train(recipe, data, run_dir, resume, num_processes, overrides, source=None)


@app.command(rich_help_panel="Train")
def finetune(
    recipe: RecipeArgument,
    source: Annotated[
        Path, typer.Option("--from", help="Weights: a run, a checkpoint, or a weights file.")
    ],
    data: DataOption = None,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    num_processes: ProcessesOption = None,
    overrides: SetOption = None,
) -> None:
    """Train a recipe from the weights of another run; averaged weights are preferred.

    Example: `ixt finetune recipes/inceptionnext_base_384.yaml --from runs/inceptionnext_base
    --data /data/imagenet`
    """
    _train(recipe, data, run_dir, resume, num_processes, overrides, source)


def _train(
    name: str,
    data: str | None,
    run_dir: Path | None,
    resume: bool,
    num_processes: int | None,
    overrides: list[str] | None,
    source: Path | None,
) -> None:
    from ixt.launch import launch, launched
    from ixt.recipe import find_recipe, load_recipe

    path = find_recipe(name)
    settings = list(overrides or [])
    if data is not None:
        settings.append(f"data.root={json.dumps(data)}")
    recipe = load_recipe(path, settings)
    if not launched():
        count = num_processes or _visible_gpus()
        if count > 1:
            sys.exit(launch(sys.argv[1:], count))
    from ixt.finetune import finetune
    from ixt.train import train

    folder = run_dir or Path("runs") / path.stem
    if source is None:
        train(recipe, folder, resume)
    else:
        finetune(recipe, folder, source, resume)


def _visible_gpus() -> int:
    import torch

    return torch.cuda.device_count() or 1
