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
    output,
)
from ixt.files import check_outputs


@dataclass(frozen=True)
class Machine:
    """The machine that an estimate is for; see `ixt.estimate.Target`.

    Attributes:
        num_gpus: Number of GPUs, on all machines together.
        device: Type of GPU, e.g. h100, a100-40gb or l4, or a YAML file.
        price_per_gpu_hour: Price of one GPU-hour.
        watts: Power of one GPU.
        interconnect: Slowest link between the GPUs, e.g. nvlink4, pcie4, ndr400 or 100Gbit/s.
        bench: File of `ixt bench --results`; the training time is then computed from measured
            throughput.
    """

    num_gpus: Annotated[int, typer.Option("--gpus", min=1)] = 8
    device: Annotated[str | None, typer.Option(metavar="GPU")] = None
    price_per_gpu_hour: Annotated[
        float | None, typer.Option("--price", "--price-per-hour", metavar="X")
    ] = None
    watts: Annotated[
        float | None,
        advanced(
            metavar="X", show_default="as measured in --bench, else the full power of the board"
        ),
    ] = None
    interconnect: Annotated[str | None, advanced(metavar="LINK")] = None
    bench: Annotated[Path | None, advanced()] = None


@app.command(rich_help_panel="Train")
def plan(
    recipe: RecipeArgument,
    machine: Machine,
    data: DataOption = None,
    overrides: SetOption = None,
    png: Annotated[Path | None, output()] = None,
    every_setting: Annotated[bool, output("--all")] = False,
    as_json: Annotated[bool, output("--json")] = False,
) -> None:
    """Estimate the memory, time and cost of a run before it starts.

    Example: `ixt plan recipes/inceptionnext_tiny.yaml --gpus 8 --device h100`

    Args:
        png: Draw the learning-rate curve into this PNG file.
        every_setting: Also list the settings that have their defaults.
        as_json: Print the estimate as JSON.
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
