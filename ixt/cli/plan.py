"""`ixt plan`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import app, uncollected
from ixt.cli.options import (
    DataOption,
    RecipeArgument,
    SetOption,
    advanced,
    all_overrides,
    grouped,
    output,
)
from ixt.files import check_outputs


@dataclass(frozen=True)
class Machine:
    """The machine that an estimate is for; see `ixt.estimate.Target`."""

    num_gpus: Annotated[
        int, typer.Option("--gpus", min=1, help="Number of GPUs, on all machines together.")
    ] = 8
    device: Annotated[
        str | None,
        typer.Option(
            metavar="GPU", help="Type of GPU, e.g. h100, a100-40gb or l4, or a YAML file."
        ),
    ] = None
    price_per_gpu_hour: Annotated[
        float | None,
        typer.Option("--price", "--price-per-hour", metavar="X", help="Price of one GPU-hour."),
    ] = None
    watts: Annotated[
        float | None,
        advanced(
            metavar="X",
            show_default="as measured in --bench, else the full power of the board",
            help="Power of one GPU.",
        ),
    ] = None
    interconnect: Annotated[
        str | None,
        advanced(
            metavar="LINK",
            help="Slowest link between the GPUs, e.g. nvlink4, pcie4, ndr400 or 100Gbit/s.",
        ),
    ] = None
    bench: Annotated[
        Path | None,
        advanced(
            help="File of `ixt bench --results`; the training time is then computed from measured "
            "throughput."
        ),
    ] = None


@app.command(rich_help_panel="Train")
@grouped
def plan(
    recipe: RecipeArgument,
    machine: Machine,
    data: DataOption = None,
    overrides: SetOption = None,
    png: Annotated[
        Path | None,
        output(help="Draw the learning-rate curve into this PNG file."),
    ] = None,
    every_setting: Annotated[
        bool,
        output("--all", help="Also list the settings that have their defaults."),
    ] = False,
    as_json: Annotated[
        bool,
        output("--json", help="Print the estimate as JSON."),
    ] = False,
) -> None:
    """Estimate the memory, time and cost of a run before it starts.

    Example: `ixt plan recipes/inceptionnext_tiny.yaml --gpus 8 --device h100`
    """
    check_outputs(png)
    with uncollected(at_exit=True):
        from ixt.estimate import Target, as_data, estimate_run, print_estimate, write_curve
        from ixt.recipe import find_recipe

        changes, target = all_overrides(overrides, data), Target(**vars(machine))
        estimate = estimate_run(find_recipe(recipe), changes, target)
        if png is not None:
            write_curve(estimate.curve, estimate.name, png)
        if as_json:
            print(json.dumps(as_data(estimate), indent=1))
        else:
            print_estimate(estimate, every_setting=every_setting)
