"""`ixt bench data` and `ixt bench e2e`: how fast images are loaded, alone and in training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.bench import bench_app
from ixt.cli.options import (
    DataOption,
    RecipeArgument,
    ResultsOption,
    SetOption,
    advanced,
    all_overrides,
)
from ixt.files import check_outputs, write_json


@dataclass(frozen=True)
class Varied:
    """The settings of a loader of which each combination is measured.

    Attributes:
        decoder: Libraries that decode images: torch, dali, exact.
        num_threads: Numbers of decoding threads, e.g. 1,2,4.
        prefetch: Numbers of batches to load in advance, e.g. 2,4.
    """

    decoder: Annotated[
        str | None, typer.Option(metavar="LIST", show_default="that of the recipe")
    ] = None
    num_threads: Annotated[
        str | None, typer.Option(metavar="LIST", show_default="1 and the number of cores")
    ] = None
    prefetch: Annotated[str | None, advanced(metavar="LIST", show_default="that of the recipe")] = (
        None
    )


@bench_app.command("data")
def data(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    *,
    varied: Varied,
    seconds: Annotated[float, advanced(min=0.1, metavar="SECONDS")] = 5.0,
    device: Annotated[str | None, typer.Option(metavar="GPU")] = None,
    bench: Path | None = None,
    results: ResultsOption = None,
) -> None:
    """Measure each stage of data loading, and the whole loader.

    The rates are compared with the images per second that a device trains on.

    A LIST is separated by commas.

    Example: `ixt bench data inceptionnext_tiny --data /data/imagenet --num-threads 1,2,4`

    Args:
        seconds: Time to measure each stage.
        device: Type of GPU to compare with, e.g. h100 or l4.
        bench: File of `ixt bench --results` with the throughput to compare with.
    """
    from ixt.bench.data.demand import find_demand
    from ixt.bench.data.stages import bench_data, print_stages, settings_of
    from ixt.models import with_own_settings
    from ixt.recipe import find_recipe, load_recipe

    check_outputs(results)
    loaded = with_own_settings(load_recipe(find_recipe(recipe), all_overrides(overrides, data)))
    demand = find_demand(loaded, device, bench)
    report = bench_data(loaded, settings_of(loaded, *_listed(varied)), demand, seconds)
    if results is not None:
        write_json(results, report.as_json())
    print_stages(report)


def _listed(varied: Varied) -> tuple[list[str], list[int], list[int]]:
    """Decoders, numbers of threads, and numbers of batches; empty for those of the recipe."""
    from ixt.bench.measure.command import integers, words
    from ixt.pipeline.decode.thread_pool import cores_per_process

    decoder, num_threads, prefetch = varied.decoder, varied.num_threads, varied.prefetch
    kinds = words("--decoder", decoder, ("torch", "dali", "exact", "auto")) if decoder else []
    cores = cores_per_process()
    threads = integers("--num-threads", num_threads) if num_threads else sorted({1, cores})
    return kinds, threads, integers("--prefetch", prefetch) if prefetch else []


@bench_app.command("e2e")
def e2e(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    seconds: Annotated[float, advanced(min=0.1, metavar="SECONDS")] = 20.0,
    results: ResultsOption = None,
) -> None:
    """Measure training together with data loading.

    For comparison, training on synthetic batches and the data loader alone are measured as well.

    Example: `ixt bench e2e inceptionnext_tiny --data /data/imagenet`

    Args:
        seconds: Time to measure each mode.
    """
    from ixt.bench.data.end_to_end import bench_end_to_end, print_end_to_end
    from ixt.bench.results import Protocol
    from ixt.models import with_own_settings
    from ixt.recipe import find_recipe, load_recipe

    check_outputs(results)
    loaded = with_own_settings(load_recipe(find_recipe(recipe), all_overrides(overrides, data)))
    report = bench_end_to_end(loaded, Protocol(seconds=seconds))
    if results is not None:
        write_json(results, report.as_json())
    print_end_to_end(report)
