"""`ixt plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import app
from ixt.cli.imports import uncollected
from ixt.cli.options import DataOption, RecipeArgument, SetOption, all_overrides
from ixt.files import check_outputs


@app.command(rich_help_panel="Train")
def plan(
    recipe: RecipeArgument,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs, over all machines.")] = 8,
    device: Annotated[
        str | None, typer.Option(help="GPU type (h100, a100-40gb, l4, ...) or a YAML file.")
    ] = None,
    data: DataOption = None,
    overrides: SetOption = None,
    interconnect: Annotated[
        str | None,
        typer.Option(help="Slowest link between GPUs: nvlink4, pcie4, ndr400, 100Gbit/s, ..."),
    ] = None,
    bench: Annotated[
        Path | None, typer.Option(help="Results of `ixt bench --results`, for the hours.")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0.0, help="Price of a GPU-hour.")] = None,
    png: Annotated[
        Path | None, typer.Option(help="Draw the learning-rate curve into this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the estimate as JSON.")] = False,
) -> None:
    """Show what a run will do, need and cost, before it takes a GPU.

    Example: `ixt plan recipes/inceptionnext_tiny.yaml --gpus 8 --device h100`
    """
    check_outputs(png)
    with uncollected(at_exit=True):
        from ixt.estimate import Target, as_data, estimate_run, print_estimate, write_curve
        from ixt.recipe import find_recipe

        target = Target(gpus, device, interconnect, bench, price)
        estimate = estimate_run(find_recipe(recipe), all_overrides(overrides, data), target)
        if png is not None:
            write_curve(estimate.curve, estimate.name, png)
        if as_json:
            print(json.dumps(as_data(estimate), indent=1))
        else:
            print_estimate(estimate)
