"""Arguments and options that several commands take, each written once, alone or in groups."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import partial, wraps
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

advanced = partial(typer.Option, rich_help_panel="Advanced")
"""An option that few need."""
output = partial(typer.Option, rich_help_panel="Output")
"""An option about what is printed and written."""

RecipeArgument = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a shipped recipe, e.g. resnet50.")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder with train/ and val/ (or validation/), with lists, or with WebDataset or "
        "parquet shards; a list (.csv, .tsv, .txt, .jsonl); a brace pattern of shards in quotes; "
        "or a URL in a bucket.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a value of the recipe, e.g. optim.lr=1.0e-3."
    ),
]
RunDirOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default="runs/RECIPE",
        help="Folder of the run, or a URL in a bucket (s3://, gs:// or az://), where it is kept as "
        "well.",
    ),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option(min=1, show_default="one per GPU", help="Number of processes on this machine."),
]
ModelOption = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Name of the model, if the file does not contain it."),
]
ResultsOption = Annotated[
    Path | None, typer.Option(help="Write the results to this file, as JSON.")
]
RawOption = Annotated[
    bool, typer.Option("--raw", help="Use the raw weights instead of the averaged ones.")
]
DecoderOption = Annotated[
    Literal["auto", "torch", "dali"],
    advanced(
        help="Library that decodes images; auto takes DALI where it is installed.",
    ),
]


def all_overrides(overrides: list[str] | None, data: str | None) -> list[str]:
    """`--set` and `--data` as texts for `load_recipe`; `--data` has the last word."""
    root = [] if data is None else [f"data.root={json.dumps(data)}"]
    return [*(overrides or []), *root]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses of options: to Typer, each field is a parameter of its own."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _parameters(groups[name])
        else:
            parameters.append(
                parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name])
            )

    @wraps(command)
    def run(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameters(group: Any) -> list[Parameter]:
    """The fields of a dataclass as parameters of a function."""
    hints = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
