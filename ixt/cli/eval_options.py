"""The options of `ixt eval`, in the groups that its help shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_SOURCE, _IMAGES, _SETTINGS, _OUTPUT = "Weights", "Test set", "How", "Results"

CheckpointsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="CHECKPOINT...",
        help="Runs, checkpoints or weights files; several are compared. "
        "Model names with --pretrained.",
    ),
]
TestSetOption = Annotated[
    str,
    typer.Option(
        "--data",
        help="Folder with val/, class folders, or numbered validation images; or s3://...",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(help="Model name, where a file does not tell it.", rich_help_panel=_SOURCE),
]
PretrainedOption = Annotated[
    bool,
    typer.Option("--pretrained", help="Published weights of timm's hub.", rich_help_panel=_SOURCE),
]
RawOption = Annotated[
    bool,
    typer.Option("--raw", help="Take raw weights, not averaged ones.", rich_help_panel=_SOURCE),
]
AverageOption = Annotated[
    str | None,
    typer.Option(
        metavar="best:N|last:N",
        help="Average the weights of a run's checkpoints.",
        rich_help_panel=_SOURCE,
    ),
]
BatchStatsOption = Annotated[
    Literal["average", "recompute"],
    typer.Option(
        help="Batch-norm statistics: as they are (of --average: averaged), or recomputed "
        "from images of train/.",
        rich_help_panel=_SOURCE,
    ),
]
LabelsOption = Annotated[
    str,
    typer.Option(
        metavar="auto|folders|ilsvrc|real|FILE",
        help="What is right: class folders, the challenge's labels by file number, ImageNet "
        "ReaL, a JSON list of lists like ReaL's, or a table `file,class`.",
        rich_help_panel=_IMAGES,
    ),
]
ClassMapOption = Annotated[
    Path | None,
    typer.Option(
        help="Class folder of each output: a line each, or JSON {folder: output}.",
        rich_help_panel=_IMAGES,
    ),
]
CompeteOption = Annotated[
    Literal["auto", "all", "present"],
    typer.Option(
        help="Which outputs may be predicted: all, or those of the classes present; "
        "auto: present for ImageNet-A and -R.",
        rich_help_panel=_IMAGES,
    ),
]
SkipDamagedOption = Annotated[
    bool,
    typer.Option("--skip-damaged", help="Leave unreadable images out.", rich_help_panel=_IMAGES),
]
BatchSizeOption = Annotated[
    int | None, typer.Option(min=1, help="Images per forward pass.", rich_help_panel=_SETTINGS)
]
DecoderOption = Annotated[
    Literal["auto", "torch", "dali", "both", "exact"],
    typer.Option(
        help="exact: timm's pixels, by Pillow; both: torch and DALI, compared.",
        rich_help_panel=_SETTINGS,
    ),
]
ImageSizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="N[,N...]",
        help="Side of the test image; tries each.",
        rich_help_panel=_SETTINGS,
    ),
]
CropPctOption = Annotated[
    str | None,
    typer.Option(
        metavar="X[,X...]", help="Share that is kept; tries each.", rich_help_panel=_SETTINGS
    ),
]
TtaOption = Annotated[
    Literal["flip"] | None,
    typer.Option(help="flip: mean logits of image and mirror image.", rich_help_panel=_SETTINGS),
]
PrecisionOption = Annotated[
    Literal["fp32", "bf16", "fp16"] | None,
    typer.Option(help="The recipe's, or fp32.", rich_help_panel=_SETTINGS),
]
ResultsOption = Annotated[
    Path | None,
    typer.Option(help="Write numbers and protocol as JSON.", rich_help_panel=_OUTPUT),
]
AppendOption = Annotated[
    Path | None,
    typer.Option(help="Add a line per measurement to a JSONL file.", rich_help_panel=_OUTPUT),
]
PerClassOption = Annotated[
    Path | None, typer.Option(help="Write a CSV row per class.", rich_help_panel=_OUTPUT)
]
ConfusionsOption = Annotated[
    Path | None,
    typer.Option(help="Write confused pairs as CSV, most first.", rich_help_panel=_OUTPUT),
]
PredictionsOption = Annotated[
    Path | None, typer.Option(help="Write a CSV row per image.", rich_help_panel=_OUTPUT)
]
