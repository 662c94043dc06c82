"""`ixt bench`: models by default; kernels, data and e2e beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ixt.cli.app import app
from ixt.cli.help import App, Group
from ixt.cli.options import ResultsOption, advanced, output
from ixt.files import check_outputs, write_text

_DEFAULT = "models"


class _ModelsByDefault(Group):
    """`ixt bench resnet50` is `ixt bench models resnet50`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._completed(args))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, self._completed(args))

    def _completed(self, args: list[str]) -> list[str]:
        named = not args or args[0] in self.commands or args[0] == "--help"
        return args if named else [_DEFAULT, *args]


bench_app = App(
    cls=_ModelsByDefault,
    help="""Measure the throughput of models, kernels and data loading.

    Without a command, models are measured: `ixt bench resnet50` is short for
    `ixt bench models resnet50`.

    Example: `ixt bench resnet50 convnext_tiny --results bench.json`""",
)
app.add_typer(bench_app, name="bench", rich_help_panel="Measure")


@dataclass(frozen=True)
class Cells:
    """What is measured: all combinations; the names are those of `Request`.

    Attributes:
        models: Names of models, e.g. resnet50.
        paper: Measure all 14 models of the table in the paper.
        modes: What to measure: train, infer.
        layouts: Memory formats of the images: contiguous (NCHW), channels_last (NHWC).
        precisions: Number formats: fp32, tf32, amp-bf16, amp-fp16, bf16.
        compiles: Use of torch.compile: off, on.
        batch_sizes: Images per step, e.g. 64,128. A range such as 32..512 doubles each time.
        fit: Find the largest batch that fits, and measure with it.
        image_size: Side of the images in pixels.
        device: Peak rates of a device that ixt does not recognize: a name, a YAML file, or values
            (see above).
    """

    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL")] = None
    paper: bool = False
    modes: Annotated[str, typer.Option("--mode", metavar="LIST")] = "train,infer"
    layouts: Annotated[str, typer.Option("--layout", metavar="LIST")] = "contiguous,channels_last"
    precisions: Annotated[
        str | None,
        typer.Option(
            "--precision", metavar="LIST", show_default="tf32 on a CUDA device, else fp32"
        ),
    ] = None
    compiles: Annotated[str, advanced("--compile", metavar="LIST")] = "off"
    batch_sizes: Annotated[str, typer.Option("--batch-size", metavar="LIST")] = "128"
    fit: bool = False
    image_size: Annotated[
        int | None, typer.Option(min=1, show_default="the training size of each model")
    ] = None
    device: Annotated[str | None, advanced("--device", "--peak", metavar="DEVICE")] = None


@dataclass(frozen=True)
class Timing:
    """How long a cell is measured, and which training step.

    Attributes:
        quick: Measure each combination once, for 4 seconds.
        seconds: Time to measure each combination in each round.
        rounds: Number of rounds; each measures all combinations once.
        step: Training step. full: as in `ixt train`, with drop path, clipping, AdamW and EMA.
            plain: forward, backward and SGD only, as in the scripts of timm and the paper.
    """

    quick: bool = False
    seconds: Annotated[float | None, advanced(min=0.1, metavar="SECONDS", show_default="20")] = None
    rounds: Annotated[int | None, advanced(min=1, show_default="2")] = None
    step: Annotated[Literal["full", "plain"], advanced()] = "full"


@dataclass(frozen=True)
class Outputs:
    """What is written and printed.

    Attributes:
        results: Write the results to this file, as JSON, after each measurement.
        resume: Continue the measurements in the file of --results.
        peers: Print figures that others have published as well.
        csv: Write one line per combination, as CSV.
        markdown: Write the table, as Markdown.
    """

    results: Annotated[Path | None, output()] = None
    resume: Annotated[bool, output()] = False
    peers: Annotated[bool, output()] = False
    csv: Annotated[Path | None, output()] = None
    markdown: Annotated[Path | None, output()] = None


@bench_app.command(_DEFAULT)
def models(cells: Cells, timing: Timing, outputs: Outputs) -> None:
    """Measure the images per second of models.

    A LIST is separated by commas. All combinations are measured, each in a process of its own.

    Values for --device are written like
    `fp32_tflops=67,bandwidth_gb_per_s=3350,memory_gib=80`.

    A benchmark that was stopped is continued by the same command with --resume, on the same machine
    with the same software.

    Example: `ixt bench inceptionnext_tiny convnext_tiny resnet50 --results bench.json`
    """
    from ixt.bench.measure.command import Request, bench, chosen_protocol
    from ixt.bench.report.figures import csv_text
    from ixt.bench.report.notes import markdown_text, print_report
    from ixt.bench.report.peers import print_peers

    check_outputs(outputs.results, outputs.csv, outputs.markdown)
    protocol = chosen_protocol(timing.quick, timing.seconds, timing.rounds, timing.step)
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
    model: Annotated[str, typer.Argument()] = "inceptionnext_tiny",
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    precision: Literal["bf16", "fp16", "fp32"] = "bf16",
    layout: Literal["channels_last", "contiguous"] = "channels_last",
    results: ResultsOption = None,
) -> None:
    """Compare fused layers with eager PyTorch and torch.compile.

    The layers of a model are also compared with the time that the memory traffic alone needs. Then
    the matrix products of the blocks are measured: with cuBLAS and a second pass over the result,
    and with one Triton kernel. A CUDA device is needed.

    Example: `ixt bench kernels inceptionnext_tiny --results kernels.json`

    Args:
        model: Name of an InceptionNeXt or ConvNeXt model.
        batch_size: Number of images.
        precision: Number format of activations and matrix products.
        layout: Memory format of the images.
    """
    from ixt.bench.kernels import bench_kernels, print_kernels

    check_outputs(results)
    print_kernels(bench_kernels(model, batch_size, precision, layout, results))


@bench_app.command()
def count(
    model: str,
    layers: Literal["plain", "fused"] = "plain",
    precision: Literal["bf16", "fp16", "tf32", "fp32"] = "bf16",
    layout: Literal["channels_last", "contiguous"] = "channels_last",
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    image_size: Annotated[
        int | None, typer.Option(min=1, show_default="the training size of the model")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="GPU", show_default="the GPU of this machine, else h100")
    ] = None,
    by: Annotated[Literal["layer", "operator"], output()] = "layer",
    as_json: Annotated[bool, output("--json")] = False,
) -> None:
    """Count the kernel launches, bytes and operations of a training step.

    Nothing is computed and no GPU is needed. The counts of the forward and backward pass, the loss,
    clipping, AdamW and EMA are shown with the time that the peak rates of a GPU allow.

    Example: `ixt bench count inceptionnext_tiny --layers fused --device h100`

    Args:
        model: Name of a model, e.g. resnet50.
        layers: plain: the layers of timm. fused: those of ixt, with model.fused, model.fused_gemm:
            triton and engine.half_residual.
        precision: Number format of activations and matrix products.
        layout: Memory format of the images.
        batch_size: Images per step.
        image_size: Side of the images in pixels.
        device: Type of GPU, e.g. h100 or l4, or a YAML file with its peak rates.
        by: What to add up in each line of the table.
        as_json: Print the counts as JSON.
    """
    from ixt.bench.count.step import Setting, count_step
    from ixt.bench.count.table import Roofline, count_data, print_count
    from ixt.bench.roofline.expected import assumed_device

    setting = Setting(model, layers, precision, layout, batch_size, image_size)
    roofline = Roofline(assumed_device(device, None), setting)
    counted = count_step(setting)
    if as_json:
        print(json.dumps(count_data(counted, roofline), indent=1))
    else:
        print_count(counted, roofline, by)
