"""Arguments and options that several commands take, each written once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

_MACHINES = "Several machines"

RecipeArgument = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", help="Folder with train/ and val/ (or validation/), or s3://..."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a recipe value, as optim.lr=1.0e-3; repeatable."),
]
RunDirOption = Annotated[
    Path | None, typer.Option(help="Folder of the run; runs/RECIPE if not given.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in --run-dir.")]
AutoResumeOption = Annotated[
    bool,
    typer.Option("--auto-resume", help="Go on with the run in --run-dir if it holds one."),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option(min=1, help="Processes on this machine; one per GPU if not given."),
]
ProfileOption = Annotated[
    int,
    typer.Option(
        "--profile",
        metavar="STEPS",
        min=0,
        help="Trace so many steps, after three of warm-up, into profile/ of the run's folder.",
    ),
]
NodesOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|MIN:MAX",
        help="Machines that train together, or how few and how many; run this on each of them.",
        rich_help_panel=_MACHINES,
    ),
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--rdzv-endpoint",
        metavar="HOST:PORT",
        help="The first machine, where all of them meet.",
        rich_help_panel=_MACHINES,
    ),
]
MeetingOption = Annotated[
    str | None,
    typer.Option(
        "--rdzv-id",
        help="Name of the meeting, where several share an endpoint.",
        rich_help_panel=_MACHINES,
    ),
]
RestartsOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="How often failed processes start again from the newest checkpoint; "
        "3 for a range of machines, else 0.",
        rich_help_panel=_MACHINES,
    ),
]
ModelOption = Annotated[
    str | None, typer.Option(help="Model name, where the file does not tell it.")
]
RawOption = Annotated[bool, typer.Option("--raw", help="Take raw weights, not averaged ones.")]
DecoderOption = Annotated[Literal["auto", "torch", "dali"], typer.Option(help="Which decoder.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Decoding threads; one per core if not given.")
]


def all_overrides(overrides: list[str] | None, data: str | None) -> list[str]:
    """`--set` and `--data` as texts for `load_recipe`; `--data` has the last word."""
    root = [] if data is None else [f"data.root={json.dumps(data)}"]
    return [*(overrides or []), *root]
