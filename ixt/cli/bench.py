"""`ixt bench`: models by default; kernels, data and e2e beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from ixt.cli.app import app
from ixt.cli.options import DataOption, RecipeArgument, SetOption, all_overrides, grouped
from ixt.files import check_outputs, write_json, write_text

_DEFAULT = "models"


class _ModelsByDefault(TyperGroup):
    """`ixt bench resnet50` is `ixt bench models resnet50`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._completed(args))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, self._completed(args))

    def _completed(self, args: list[str]) -> list[str]:
        named = not args or args[0] in self.commands or args[0] == "--help"
        return args if named else [_DEFAULT, *args]


bench_app = typer.Typer(
    cls=_ModelsByDefault,
    no_args_is_help=True,
    help="Measure throughput. `ixt bench MODEL...` is short for `ixt bench models MODEL...`.",
)
app.add_typer(bench_app, name="bench", rich_help_panel="Measure")


ResultsOption = Annotated[Path | None, typer.Option(help="Results file (JSON).")]


@dataclass(frozen=True)
class Cells:
    """What is measured: all combinations; the names are those of `Request`."""

    models: Annotated[list[str] | None, typer.Argument(help="Model names.")] = None
    paper: Annotated[bool, typer.Option("--paper", help="All 14 models of the paper's table.")] = (
        False
    )
    modes: Annotated[str, typer.Option("--mode", help="train, infer.")] = "train,infer"
    layouts: Annotated[
        str, typer.Option("--layout", help="contiguous (NCHW), channels_last (NHWC).")
    ] = "contiguous,channels_last"
    precisions: Annotated[
        str | None,
        typer.Option(
            "--precision",
            help="fp32, tf32, amp-bf16, amp-fp16, bf16; if not given tf32 on a CUDA device, "
            "the paper's, and fp32 elsewhere.",
        ),
    ] = None
    compiles: Annotated[str, typer.Option("--compile", help="off, on.")] = "off"
    batch_sizes: Annotated[
        str,
        typer.Option(
            "--batch-size", help="Images per step: 128, or 64,128, or 32..512 (doubling)."
        ),
    ] = "128"
    fit: Annotated[
        bool, typer.Option("--fit", help="Find and take the largest batch that fits.")
    ] = False
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side in pixels; if not given, what each model is trained on."),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            "--peak",
            help="Peaks of a device that is not known: a name, a YAML file, or "
            "fp32_tflops=67,bandwidth_gb_per_s=3350,memory_gib=80.",
        ),
    ] = None


@dataclass(frozen=True)
class Timing:
    """How long and what a cell is measured."""

    seconds: Annotated[float, typer.Option(min=0.1, help="Time measured per cell and round.")] = (
        20.0
    )
    rounds: Annotated[int, typer.Option(min=1, help="Times through the whole matrix, A B A B.")] = 2
    step: Annotated[
        Literal["full", "plain"],
        typer.Option(
            help="full: train as training does, with drop path, clipping, AdamW and EMA; plain: "
            "forward, backward and SGD alone, as the paper's and timm's scripts."
        ),
    ] = "full"


@dataclass(frozen=True)
class Outputs:
    """What is written and printed."""

    results: Annotated[
        Path | None, typer.Option(help="Results file (JSON), written after each cell.")
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Resume the benchmark in --results.")] = (
        False
    )
    peers: Annotated[
        bool, typer.Option("--peers", help="Also print the nearest published figures of others.")
    ] = False
    csv: Annotated[Path | None, typer.Option(help="Also write a line per cell as CSV.")] = None
    markdown: Annotated[Path | None, typer.Option(help="Also write the table as Markdown.")] = None


@bench_app.command(_DEFAULT)
@grouped
def models(cells: Cells, timing: Timing, outputs: Outputs) -> None:
    """Measure training and inference images per second in both memory formats.

    Options that name several things take a list with commas; all combinations are measured, each
    in a fresh process.

    Example: `ixt bench inceptionnext_tiny convnext_tiny resnet50 --results bench.json`
    """
    from ixt.bench.measure.command import Request, bench
    from ixt.bench.report.figures import csv_text
    from ixt.bench.report.notes import markdown_text, print_report
    from ixt.bench.report.peers import print_peers
    from ixt.bench.results import Protocol

    check_outputs(outputs.results, outputs.csv, outputs.markdown)
    protocol = Protocol(seconds=timing.seconds, rounds=timing.rounds, training_step=timing.step)
    chosen = {**vars(cells), "models": cells.models or ()}
    request = Request(**chosen, protocol=protocol, results=outputs.results, resume=outputs.resume)
    report = bench(request)
    print_report(report)
    if outputs.peers:
        print_peers(report)
    if outputs.csv is not None:
        write_text(outputs.csv, csv_text(report))
    if outputs.markdown is not None:
        write_text(outputs.markdown, markdown_text(report))


@bench_app.command()
def kernels(
    model: Annotated[
        str, typer.Argument(help="An InceptionNeXt or ConvNeXt, whose layers are measured.")
    ] = "inceptionnext_tiny",
    batch_size: Annotated[int, typer.Option(min=1, help="Images.")] = 128,
    precision: Annotated[
        Literal["bf16", "fp16", "fp32"], typer.Option(help="Of activations and products.")
    ] = "bf16",
    layout: Annotated[
        Literal["channels_last", "contiguous"], typer.Option(help="Memory order of images.")
    ] = "channels_last",
    results: ResultsOption = None,
) -> None:
    """Measure fused layers against eager PyTorch, torch.compile and the memory floor.

    Then the matrix products of blocks, by cuBLAS and a pass over the result, and by Triton alone.
    Needs a CUDA device. Example: `ixt bench kernels inceptionnext_tiny --results kernels.json`
    """
    from ixt.bench.kernels import bench_kernels, print_kernels

    check_outputs(results)
    print_kernels(bench_kernels(model, batch_size, precision, layout, results))


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
    from ixt.models import with_own_settings
    from ixt.pipeline.decode.thread_pool import cores_per_process
    from ixt.recipe import find_recipe, load_recipe

    check_outputs(results)
    loaded = with_own_settings(load_recipe(find_recipe(recipe), all_overrides(overrides, data)))
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
    from ixt.models import with_own_settings
    from ixt.recipe import find_recipe, load_recipe

    check_outputs(results)
    loaded = with_own_settings(load_recipe(find_recipe(recipe), all_overrides(overrides, data)))
    report = bench_end_to_end(loaded, Protocol(seconds=seconds))
    if results is not None:
        write_json(results, report.as_json())
    print_end_to_end(report)
