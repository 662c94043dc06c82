"""Help of every command: usage, what it does, an example, and options in panels, within 80 columns.

Typer's own help spends half of such a line on types and cuts long words; this one prints each
option as `--name VALUE` with its text beside it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

Function = TypeVar("Function", bound=Callable[..., Any])
Row = tuple[str, str, str]
"""Name, text and notes of a parameter or a command."""

_WIDEST = 100
"""Columns used of a wide terminal: longer lines are hard to read."""
_NAME_WIDTH = 25
"""Columns for an option and its value: 49 of 80 are left for its text."""
_EXAMPLE = "Example: `"
_CHOICE = "CHOICE"
"""Value of an option whose choices do not fit beside it: they follow its text."""
_COMMANDS = (
    *("data", "init", "explain", "plan", "train", "resume", "finetune", "teach", "runs", "launch"),
    *("eval", "predict", "report", "export", "verify", "doctor", "bench"),
)
"""The commands in the order of a first run: data, training, use of the weights, measurements."""
_LAST = ("Several machines", "Advanced")
"""Panels below all others, in this order."""


class _Help:
    """What a command and a group of commands print about themselves."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, as Typer does, instead of handing it to click."""
        _print_help(self, ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Everything that must be given, then `[OPTIONS]`."""
        return _usage(self, ctx)

    def get_short_help_str(self, limit: int = 45) -> str:
        """The summary, never cut."""
        return summary(self)


class Command(_Help, TyperCommand):
    """A command whose help fits the terminal."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        _name_values(self.params)


class Group(_Help, TyperGroup):
    """A group of commands whose help fits the terminal."""

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
        """Register a command, as `typer.Typer.command` does."""
        return super().command(name, cls=cls, **options)


def command_name(ctx: Any) -> str:
    """The words that name a command, however the program was started: `ixt data check`."""
    return "ixt" + str(ctx.command_path.removeprefix(ctx.find_root().info_name))


def summary(command: Any) -> str:
    """The first paragraph of a command's help, as one line."""
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())


def example(command: Any) -> str | None:
    """The command line that a command's help shows, as one line."""
    for paragraph in _paragraphs(command):
        if paragraph.startswith(_EXAMPLE):
            return paragraph.removeprefix(_EXAMPLE).removesuffix("`")
    return None


def _paragraphs(command: Any) -> list[str]:
    texts = inspect.cleandoc(command.help or "").split("\n\n")
    return [" ".join(text.split()) for text in texts]


def _name_values(params: list[Any]) -> None:
    """Give every parameter a name for its value, where it has none of its own."""
    for param in params:
        if param.metavar is None and isinstance(param, TyperOption):
            param.metavar = None if param.is_flag else _value_name(param)
        elif param.metavar is None:
            param.metavar = param.name.upper()


def _value_name(option: TyperOption) -> str:
    kind = option.type_descriptor
    if kind.is_choice:
        listed = "|".join(_choices(option))
        return listed if len(f"{option.opts[0]} {listed}") <= _NAME_WIDTH else _CHOICE
    if kind.is_path:
        return "FILE"
    return "N" if kind.annotation in (int, float) else "TEXT"


def _choices(option: TyperOption) -> list[str]:
    return [str(choice) for choice in option.type_descriptor.choices or ()]


def _usage(command: Any, ctx: Any) -> list[str]:
    if isinstance(command, Group):
        return ["COMMAND", "[OPTIONS]"]
    arguments, needed = [], []
    for param in command.get_params(ctx):
        if isinstance(param, TyperOption):
            needed += [_label(param)] if param.required else []
        else:
            arguments.append(_label(param) if param.required else f"[{_label(param)}]")
    return [*arguments, *needed, "[OPTIONS]"]


def _label(param: Any) -> str:
    """A parameter as it is written in a command line."""
    if not isinstance(param, TyperOption):
        return f"{param.metavar}..." if param.nargs == -1 else str(param.metavar)
    names = "/".join([", ".join(param.opts), *param.secondary_opts])
    return names if param.is_flag else f"{names} {param.metavar}"


def _notes(param: Any) -> str:
    """What the program knows of a parameter: choices, default, and so on, in brackets."""
    notes = []
    if isinstance(param, TyperOption):
        if param.metavar == _CHOICE:
            notes.append(f"one of {', '.join(_choices(param))}")
        notes += ["required"] if param.required else []
        notes += ["repeatable"] if param.multiple else []
    if isinstance(param.show_default, str):
        notes.append(f"default: {param.show_default}")
    elif param.default is True:
        notes.append(f"default: {param.opts[0]}")
    elif param.show_default and isinstance(param.default, str | int | float | PurePath):
        notes += [] if param.default is False else [f"default: {param.default}"]
    return f"[{'; '.join(notes)}]" if notes else ""


def _print_help(command: Any, ctx: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(console.width, _WIDEST)
    usage = f"Usage: {command_name(ctx)} {' '.join(_usage(command, ctx))}"
    texts = ["", usage]
    for paragraph in _paragraphs(command):
        is_example = paragraph.startswith(_EXAMPLE)
        texts += ["", _example_lines(command, console.width - 2) if is_example else paragraph]
    for text in [*texts, ""]:
        console.print(_padded(text, bold=text is usage))
    if isinstance(command, Group):
        _print_panels(console, _command_panels(command, ctx))
    _print_panels(console, _parameter_panels(command, ctx))


def _example_lines(command: Any, width: int) -> str:
    """The example, broken into lines that a shell joins again."""
    words = re.split(" (?=--)", example(command) or "")  # an option stays with its value
    lines = [f"  {words[0]}"]
    for word in words[1:]:
        if len(f"{lines[-1]} {word} \\") <= width:
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(f"      {word}")
    return "\n".join(["Example:", *lines])


def _command_panels(group: Group, ctx: Any) -> dict[str, list[Row]]:
    """A row for each command of a group, by the title of its panel."""
    panels: dict[str, list[Row]] = {}
    for name in group.list_commands(ctx):
        command: Any = group.commands[name]
        title = command.rich_help_panel or "Commands"
        panels.setdefault(title, []).append((name, summary(command), ""))
    return panels


def _parameter_panels(command: Any, ctx: Any) -> dict[str, list[Row]]:
    """A row for each parameter, by the title of its panel; the plain options come first."""
    panels: dict[str, list[Row]] = {"Arguments": [], "Options": []}
    for param in command.get_params(ctx):
        title = "Options" if isinstance(param, TyperOption) else "Arguments"
        rows = panels.setdefault(getattr(param, "rich_help_panel", None) or title, [])
        rows.append((_label(param), param.help or "", _notes(param)))
    return dict(
        sorted(panels.items(), key=lambda panel: _LAST.index(panel[0]) if panel[0] in _LAST else -1)
    )


def _print_panels(console: Console, panels: dict[str, list[Row]]) -> None:
    from rich.panel import Panel
    from rich.table import Table

    width = max((len(label) for rows in panels.values() for label, _, _ in rows), default=0)
    for title, rows in panels.items():
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(width=width, overflow="fold", style="bold cyan")
        table.add_column(ratio=1, overflow="fold")
        for label, content, notes in rows:
            text = _text(content)
            text.append(f" {notes}" if notes else "", style="dim")
            table.add_row(label, text)
        if rows:
            console.print(Panel(table, title=title, title_align="left", border_style="dim"))


def _padded(content: str, *, bold: bool) -> RenderableType:
    from rich.padding import Padding

    return Padding(_text(content, "bold" if bold else ""), (0, 1))


def _text(content: str, style: str = "") -> Text:
    """A text with its code and its options in colour."""
    from rich.text import Text

    text = Text(content, style=style, overflow="fold")
    text.highlight_regex(r"`[^`]+`|(?<![\w-])--[a-z][a-z0-9-]*", "cyan")
    return text
