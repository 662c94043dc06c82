"""`ixt bench data` and `ixt bench e2e`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import check_outputs, write_json
from ixt.cli.bench import bench_app
from ixt.cli.options import DataOption, RecipeArgument, SetOption, all_overrides

ResultsOption = Annotated[Path | None, typer.Option(help="Results file (JSON).")]


@bench_app.command("data")
def data(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    decoder: Annotated[
        str | None, typer.Option(help="torch, dali, exact, several; the recipe's if not given.")
    ] = None,
    num_threads: Annotated[
        str | None,
        typer.Option(help="Decoding threads: 1,2,4. 1 and all cores if not given."),
    ] = None,
    prefetch: Annotated[
        str | None, typer.Option(help="Batches ahead: 2,4. The recipe's if not given.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time measured per stage.")] = 5.0,
    device: Annotated[
        str | None, typer.Option(help="GPU type to compare with (h100, l4, ...).")
    ] = None,
    bench: Annotated[
        Path | None, typer.Option(help="Results of `ixt bench --results`: the device's rate.")
    ] = None,
    results: ResultsOption = None,
) -> None:
    """Measure each stage of loading, and the whole loader, against what a device takes.

    Example: `ixt bench data recipes/inceptionnext_tiny.yaml --data DIR --num-threads 1,2,4`
    """
    from ixt.bench.data.demand import find_demand
    from ixt.bench.data.stages import bench_data, print_stages, settings_of
    from ixt.bench.measure.command import integers, words
    from ixt.distributed.accelerator import cores_per_process
    from ixt.recipe import find_recipe, load_recipe

    check_outputs(results)
    loaded = load_recipe(find_recipe(recipe), all_overrides(overrides, data))
    kinds = words("--decoder", decoder, ("torch", "dali", "exact", "auto")) if decoder else []
    cores = cores_per_process()
    threads = integers("--num-threads", num_threads) if num_threads else sorted({1, cores})
    ahead = integers("--prefetch", prefetch) if prefetch else []
    demand = find_demand(loaded, device, bench)
    report = bench_data(loaded, settings_of(loaded, kinds, threads, ahead), demand, seconds)
    if results is not None:
        write_json(results, report.as_json())
    print_stages(report)


@bench_app.command("e2e")
def e2e(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time measured per mode.")] = 20.0,
    results: ResultsOption = None,
) -> None:
    """Measure training with its loader, on synthetic batches, and the loader alone.

    Example: `ixt bench e2e recipes/inceptionnext_tiny.yaml --data DIR`
    """
    from ixt.bench.data.end_to_end import bench_end_to_end, print_end_to_end
    from ixt.bench.results import Protocol
    from ixt.recipe import find_recipe, load_recipe

    check_outputs(results)
    loaded = load_recipe(find_recipe(recipe), all_overrides(overrides, data))
    report = bench_end_to_end(loaded, Protocol(seconds=seconds))
    if results is not None:
        write_json(results, report.as_json())
    print_end_to_end(report)
