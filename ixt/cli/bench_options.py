"""The options of `ixt bench models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelsArgument = Annotated[list[str] | None, typer.Argument(help="Model names.")]
PaperOption = Annotated[bool, typer.Option("--paper", help="All 14 models of the paper's table.")]
ModesOption = Annotated[str, typer.Option(help="train, infer.")]
LayoutsOption = Annotated[str, typer.Option(help="contiguous (NCHW), channels_last (NHWC).")]
PrecisionsOption = Annotated[
    str | None,
    typer.Option(
        help="fp32, tf32, amp-bf16, amp-fp16, bf16; if not given tf32 on a CUDA device, "
        "the paper's, and fp32 elsewhere."
    ),
]
CompilesOption = Annotated[str, typer.Option(help="off, on.")]
BatchSizesOption = Annotated[
    str, typer.Option(help="Images per step: 128, or 64,128, or 32..512 (doubling).")
]
FitOption = Annotated[
    bool, typer.Option("--fit", help="Find and take the largest batch that fits.")
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option(min=1, help="Side in pixels; if not given, what each model is trained on."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        "--peak",
        help="Peaks of a device that is not known: a name, a YAML file, or "
        "fp32_tflops=67,bandwidth_gb_per_s=3350,memory_gib=80.",
    ),
]
SecondsOption = Annotated[float, typer.Option(min=0.1, help="Time measured per cell and round.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="Times through the whole matrix, A B A B.")]
StepOption = Annotated[
    str,
    typer.Option(
        help="full: train as training does, with drop path, clipping, AdamW and EMA; plain: "
        "forward, backward and SGD alone, as the paper's and timm's scripts."
    ),
]
ResultsOption = Annotated[
    Path | None, typer.Option(help="Results file (JSON), written after each cell.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with the benchmark in --results.")
]
PeersOption = Annotated[
    bool, typer.Option("--peers", help="Also print the nearest published figures of others.")
]
CsvOption = Annotated[Path | None, typer.Option(help="Also write a line per cell as CSV.")]
MarkdownOption = Annotated[Path | None, typer.Option(help="Also write the table as Markdown.")]
