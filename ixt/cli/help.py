"""Help of every command: Typer's, with names for values and an example that a shell can read."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from ixt.cli.options import described

Function = TypeVar("Function", bound=Callable[..., Any])

_WIDEST = 100
"""Columns used of a wide terminal: longer lines are hard to read."""
_EXAMPLE = re.compile(r"\n\nExample: `(.*)`", re.DOTALL)
_EXAMPLE_WIDTH = 72  # fits a terminal of 80 columns
_COMMANDS = (
    *("data", "init", "explain", "plan", "train", "resume", "finetune", "teach", "runs", "launch"),
    *("eval", "predict", "report", "export", "verify", "doctor", "bench"),
)
"""The commands in the order of a first run: data, training, use of the weights, measurements."""
_LAST = ("Several machines", "Advanced")
"""Panels below all others, in this order."""


class _Help:
    """What a command and a group of commands print about themselves."""

    help: str | None
    epilog: str | None
    params: list[Any]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.help, self.epilog = _parted(self.help or "")
        for param in self.params:
            _name_value(param)
        self.params.sort(key=_place)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, at most `_WIDEST` columns wide."""
        from typer import rich_utils

        rich_utils.MAX_WIDTH = min(shutil.get_terminal_size().columns, _WIDEST)
        super().format_help(ctx, formatter)  # type: ignore[misc]

    def get_short_help_str(self, limit: int = 45) -> str:
        """The summary, never cut."""
        return summary(self)


class Command(_Help, TyperCommand):
    """A command with such a help."""


class Group(_Help, TyperGroup):
    """A group of commands with such a help."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The program's commands in the order of a first run; those of a group as written."""
        names = list(self.commands)
        if ctx.parent is not None:
            return names
        known = [name for name in _COMMANDS if name in names]
        return [*known, *(name for name in names if name not in known)]


class App(typer.Typer):
    """A Typer application whose commands and groups print this help."""

    def __init__(self, *, cls: type[TyperGroup] = Group, **options: Any) -> None:
        super().__init__(cls=cls, rich_markup_mode="markdown", no_args_is_help=True, **options)

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = Command, **options: Any
    ) -> Callable[[Function], Function]:
        """Register a command, as `typer.Typer.command` does, by its signature and docstring."""
        register = super().command(name, cls=cls, **options)

        def registered(function: Function) -> Function:
            register(described(function))
            return function

        return registered


def summary(command: Any) -> str:
    """The first paragraph of a command's help, as one line."""
    return " ".join((command.help or "").split("\n\n")[0].split())


def _parted(text: str) -> tuple[str, str]:
    """A help without its example; and that as Markdown, in lines that a shell joins again."""
    text = inspect.cleandoc(text)
    example = _EXAMPLE.search(text)
    words = re.split(" (?=--)", " ".join(example[1].split())) if example else []
    lines = words[:1]
    for word in words[1:]:  # an option stays with its value
        if len(f"{lines[-1]} {word} \\") <= _EXAMPLE_WIDTH:
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(f"    {word}")
    return _EXAMPLE.sub("", text), "\n".join(["Example:", "", "```", *lines, "```"])


def _place(param: Any) -> int:
    """Where a parameter's panel stands among the others."""
    panel = getattr(param, "rich_help_panel", None)
    return _LAST.index(panel) if panel in _LAST else -1


def _name_value(param: Any) -> None:
    """Name a parameter's value where it has no name of its own; three dots: give several."""
    kind = param.type_descriptor
    if not isinstance(param, TyperOption):
        param.metavar = param.metavar or param.name.upper()
    elif param.is_flag:
        param.metavar = ""
    elif param.metavar is None and kind.is_choice:
        param.metavar = " | ".join(map(str, kind.choices))
    elif param.metavar is None:
        is_number = kind.annotation in (int, float)
        param.metavar = "FILE" if kind.is_path else "N" if is_number else "TEXT"
    if isinstance(param, TyperOption) and param.multiple:
        param.metavar += "..."
