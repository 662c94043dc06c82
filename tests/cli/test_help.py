"""`--help` of every command fits 80 columns, cuts nothing, and shows a command that works."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ixt.cli import app
from ixt.cli.help import summary

WIDTH = 80


def every_command(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands and groups below a group, itself too, with the words that name them."""
    yield words, group
    for name, command in getattr(group, "commands", {}).items():
        yield from every_command(command, (*words, name))


ROOT = get_command(app)
COMMANDS = list(every_command(ROOT))
commands = pytest.mark.parametrize(
    ("words", "command"), COMMANDS, ids=[" ".join(words) or "ixt" for words, _ in COMMANDS]
)


@cache
def help_of(words: tuple[str, ...], columns: int = WIDTH) -> str:
    """What a command prints with `--help` on a terminal of so many columns."""
    done = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [*words, "--help"])
    assert done.exit_code == 0, done.output
    return done.output


def plain_words(text: str) -> list[str]:
    """The words of a text without the frames of panels."""
    return re.sub("[─│╭╮╰╯]", " ", text).split()


@commands
def test_help_fits_80_columns_and_cuts_no_word(words: tuple[str, ...], command: Any) -> None:
    printed = help_of(words)
    assert max(map(len, printed.splitlines())) <= WIDTH
    assert "…" not in printed
    # Three dots stand behind an argument that can be repeated, and nowhere else.
    assert [
        word for word in printed.split() if "..." in word and not re.search(r"[A-Z}\]]\.", word)
    ] == []
    shown = set(plain_words(printed))
    texts = [command.help or "", *(param.help or "" for param in command.params)]
    expected = {word for text in texts for word in text.replace("`", "").split()}
    assert [word for word in expected if word not in shown] == []


@commands
def test_no_name_and_no_value_of_help_is_broken(words: tuple[str, ...], command: Any) -> None:
    lines = [" ".join(plain_words(line)) for line in help_of(words).splitlines()]
    for param in command.params:
        names = [
            *(opt for opt in param.opts if opt.startswith("-")),
            *(param.metavar or "").split(" | "),
        ]
        assert all(any(name in line for line in lines) for name in names), names


@commands
def test_every_summary_fits_one_line_of_the_list(words: tuple[str, ...], command: Any) -> None:
    text = summary(command)
    assert text.endswith(".") and "`" not in text
    if words:
        listed = help_of(words[:-1]).splitlines()
        assert [line for line in listed if plain_words(line) == [words[-1], *text.split()]] != []


@commands
def test_the_example_of_help_parses_and_is_of_this_command(
    words: tuple[str, ...], command: Any
) -> None:
    line = command.epilog.partition("```")[2].strip("`\n")
    name, *arguments = shlex.split(line.replace("\\\n", ""))
    assert name == "ixt"
    assert_parses(arguments, words)
    # It is printed so that a shell reads the same command.
    printed = help_of(words).partition("Example:")[2]
    assert [part.strip() for part in printed.splitlines() if part.strip()] == [
        part.strip() for part in line.splitlines()
    ]


def assert_parses(arguments: list[str], words: tuple[str, ...]) -> None:
    """Parse a command line, which must name the command, or one of the group, that is expected."""
    command: Any = ROOT
    context = command.make_context("ixt", list(arguments))
    named: tuple[str, ...] = ()
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        named = (*named, name)
        context = command.make_context(name, rest, parent=context)
    assert named[: len(words)] == words


@commands
def test_every_option_has_a_text_that_is_a_sentence(words: tuple[str, ...], command: Any) -> None:
    for param in command.params:
        assert param.help and param.help.endswith("."), param.name
        # Choices are explained by their names, which are not capitalised.
        assert param.help[0].isupper() or ": " in param.help, param.help
        assert param.metavar != "TEXT", f"{param.name}: say what kind of text"


def test_help_uses_a_wider_terminal_up_to_100_columns() -> None:
    widths = {
        columns: max(map(len, help_of(("train",), columns).splitlines())) for columns in (90, 300)
    }
    assert widths == {90: 90, 300: 100}


def test_rarely_used_options_are_the_last_panel() -> None:
    titles = re.findall(r"╭─ (.*?) ─", help_of(("train",)))
    assert titles == ["Arguments", "Options", "Several machines", "Advanced"]
