"""`ixt bench cost`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import uncollected
from ixt.cli.bench import bench_app
from ixt.cli.options import SetOption, output
from ixt.cli.plan import Machine
from ixt.files import check_outputs


@bench_app.command("cost")
def cost(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE")],
    machine: Machine,
    images_per_s: Annotated[
        list[float] | None,
        typer.Option(metavar="X", show_default="as measured in --bench, else predicted"),
    ] = None,
    overrides: SetOption = None,
    picture: Annotated[Path | None, output()] = None,
    as_json: Annotated[bool, output("--json")] = False,
) -> None:
    """Show the GPU-hours, energy and price of whole trainings.

    They are those of ImageNet-1k, and follow from images per second that are given, measured or
    predicted. The accuracies beside them are published ones.
    Phases of a curriculum count at their own image size.

    Example: `ixt bench cost inceptionnext_tiny resnet50 resnet50_fast --device h100 --price 2.5`

    Args:
        recipes: YAML files, or names of shipped recipes.
        images_per_s: Images per second of one GPU at a recipe's own image size, once per recipe.
        picture: Draw cost and accuracy into this SVG or PNG.
        as_json: Print the costs as JSON.
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
