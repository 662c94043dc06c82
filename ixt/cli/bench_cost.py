"""`ixt bench cost`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import uncollected
from ixt.cli.bench import bench_app
from ixt.cli.options import SetOption, grouped, output
from ixt.cli.plan import Machine
from ixt.files import check_outputs


@bench_app.command("cost")
@grouped
def cost(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE", help="YAML files, or names of shipped recipes."),
    ],
    machine: Machine,
    images_per_s: Annotated[
        list[float] | None,
        typer.Option(
            metavar="X",
            show_default="as measured in --bench, else predicted",
            help="Images per second of one GPU at a recipe's own image size, once per recipe.",
        ),
    ] = None,
    overrides: SetOption = None,
    picture: Annotated[
        Path | None,
        output(help="Draw cost and accuracy into this SVG or PNG."),
    ] = None,
    as_json: Annotated[bool, output("--json", help="Print the costs as JSON.")] = False,
) -> None:
    """Show the GPU-hours, energy and price of whole trainings.

    They are those of ImageNet-1k, and follow from images per second that are given, measured or
    predicted. The accuracies beside them are published ones.
    Phases of a curriculum count at their own image size.

    Example: `ixt bench cost inceptionnext_tiny resnet50 resnet50_fast --device h100 --price 2.5`
    """
    check_outputs(picture)
    with uncollected(at_exit=True):
        from ixt.estimate import Target
        from ixt.estimate.expense import find_expenses, print_expenses

        target = Target(**vars(machine))
        expenses = find_expenses(recipes, overrides or [], target, images_per_s or ())
        if picture is not None:
            from ixt.estimate.expense_picture import draw_expenses

            draw_expenses(expenses, picture)
        if as_json:
            print(json.dumps([expense.as_data() for expense in expenses], indent=1))
        else:
            print_expenses(expenses)
