"""Arguments and options that several commands take, each written once, alone or in groups."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from functools import partial, wraps
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

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


def described(command: Callable[..., None]) -> Callable[..., None]:
    """A function whose parameters Typer takes as arguments and options, with their texts.

    What a parameter means is said where Python says it: in the function's section Args, or in the
    section Attributes of a dataclass of parameters, each of which is one of its own to Typer. One
    without a default is an argument, any other an option; a flag that is off has no opposite.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    help_text, texts = _sections(command)
    parameters: list[Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _parameters(groups[name])
        else:
            parameters.append(_parameter(name, hints[name], parameter.default, texts.get(name)))

    @wraps(command)
    def run(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        command(**given)

    run.__doc__ = help_text
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _sections(documented: Any) -> tuple[str, dict[str, str]]:
    """A docstring without its last section, and the texts of that by the names of parameters."""
    title = "\n\nAttributes:\n" if is_dataclass(documented) else "\n\nArgs:\n"
    text, _, section = (inspect.getdoc(documented) or "").partition(title)
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return text, {name: " ".join(words.split()) for name, words in entries}


def _parameters(group: Any) -> list[Parameter]:
    """The fields of a dataclass as parameters of a function."""
    hints = get_type_hints(group, include_extras=True)
    _, texts = _sections(group)
    return [
        _parameter(
            field.name,
            hints[field.name],
            Parameter.empty if field.default is MISSING else field.default,
            texts.get(field.name),
        )
        for field in fields(group)
    ]


def _parameter(name: str, hint: Any, default: Any, text: str | None) -> Parameter:
    """A parameter with what Typer is to know of it; a hint without a text has one already."""
    kind, *given = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    usual = typer.Argument() if default is Parameter.empty else typer.Option()
    info: Any = copy(given[0] if given else usual)
    info.help = text or info.help
    is_named = isinstance(info.default, str)  # where Typer takes names without a default from
    if kind is bool and default is False and not is_named:
        info.param_decls = (f"--{name.replace('_', '-')}",)
    annotation = Annotated.__class_getitem__((kind, info))  # type: ignore[attr-defined]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
