"""`ixt bench`: models by default, with further subcommands beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ixt.cli.app import app, check_outputs, write_text
from ixt.cli.bench_options import (
    BatchSizesOption,
    CompilesOption,
    CsvOption,
    DeviceOption,
    FitOption,
    ImageSizeOption,
    LayoutsOption,
    MarkdownOption,
    ModelsArgument,
    ModesOption,
    PaperOption,
    PeersOption,
    PrecisionsOption,
    ResultsOption,
    ResumeOption,
    RoundsOption,
    SecondsOption,
    StepOption,
)

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


@bench_app.command(_DEFAULT)
def models(
    models: ModelsArgument = None,
    paper: PaperOption = False,
    mode: ModesOption = "train,infer",
    layout: LayoutsOption = "contiguous,channels_last",
    precision: PrecisionsOption = None,
    compile: CompilesOption = "off",
    batch_size: BatchSizesOption = "128",
    fit: FitOption = False,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
    seconds: SecondsOption = 20.0,
    rounds: RoundsOption = 2,
    step: StepOption = "full",
    results: ResultsOption = None,
    resume: ResumeOption = False,
    peers: PeersOption = False,
    csv: CsvOption = None,
    markdown: MarkdownOption = None,
) -> None:
    """Measure training and inference images per second in both memory formats.

    Options that name several things take a list with commas; all combinations are measured, each
    in a fresh process.

    Example: `ixt bench inceptionnext_tiny convnext_tiny resnet50 --results bench.json`
    """
    from ixt.bench.measure.command import Request, bench, training_step
    from ixt.bench.report.peers import print_peers
    from ixt.bench.report.text import csv_text, markdown_text, print_table
    from ixt.bench.results import Protocol

    check_outputs(results, csv, markdown)
    report = bench(
        Request(
            models=models or (),
            paper=paper,
            modes=mode,
            layouts=layout,
            precisions=precision,
            compiles=compile,
            batch_sizes=batch_size,
            fit=fit,
            image_size=image_size,
            device=device,
            protocol=Protocol(seconds=seconds, rounds=rounds, training_step=training_step(step)),
            results=results,
            resume=resume,
        )
    )
    print_table(report)
    if peers:
        print_peers(report)
    if csv is not None:
        write_text(csv, csv_text(report))
    if markdown is not None:
        write_text(markdown, markdown_text(report))


@bench_app.command()
def kernels(
    model: Annotated[
        str, typer.Argument(help="An InceptionNeXt or ConvNeXt, whose layers are measured.")
    ] = "inceptionnext_tiny",
    batch_size: Annotated[int, typer.Option(min=1, help="Images.")] = 128,
    precision: Annotated[str, typer.Option(help="bf16, fp16, fp32.")] = "bf16",
    layout: Annotated[str, typer.Option(help="channels_last, contiguous.")] = "channels_last",
    results: Annotated[Path | None, typer.Option(help="Results file (JSON).")] = None,
) -> None:
    """Measure fused layers against eager PyTorch, torch.compile and the memory floor.

    Then the matrix products of blocks, by cuBLAS and a pass over the result, and by Triton alone.
    Needs a CUDA device. Example: `ixt bench kernels inceptionnext_tiny --results kernels.json`
    """
    from ixt.bench.kernels import bench_kernels, print_kernels

    check_outputs(results)
    print_kernels(bench_kernels(model, batch_size, precision, layout, results))
