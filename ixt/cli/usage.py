"""Mistakes in flags and arguments, reported in one line like any other mistake."""

from __future__ import annotations

import difflib
import re
from typing import Any

import typer

from ixt.errors import printable

_CHOICES = re.compile(r"'(?P<found>.*)' is not one of (?P<allowed>.*?)\.?")


def usage_line(error: typer.TyperException) -> str:
    """What is wrong with the flags and arguments of a command, what is allowed, what to do.

    The classes of such errors are Typer's own affair; their attributes tell them apart.

    Returns:
        One line. Where a group of commands was named alone: its help, or nothing if Typer has
        printed it.
    """
    if type(error).__name__ == "NoArgsIsHelpError":
        return error.message
    return printable(_problem(error))


def _problem(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    command = "ixt"
    if context is not None:  # however the program was started
        command += context.command_path.removeprefix(context.find_root().info_name)
    see = f"; see `{command} --help`" if context is not None else ""
    if hasattr(error, "possibilities"):
        near = error.possibilities
        return f"{command}: {error.option_name}: no such option" + (  # type: ignore[attr-defined]
            f"; did you mean {near[0]}?" if near else see
        )
    if hasattr(error, "param_type"):
        text = " ".join(error.format_message().removeprefix("Missing ").split())
        name, _, choices = text.replace("Choose from:", "give one of").partition(". ")
        return f"{command}: missing {name.rstrip('.')}" + (f"; {choices}" if choices else see)
    if getattr(error, "param", None) is not None:
        return f"{command}: {_wrong_value(error)}"
    problem = error.format_message().rstrip(".").replace(". Did you mean", "; did you mean")
    return f"{command}: {_uncapitalised(problem)}{'' if problem.endswith('?') else see}"


def _wrong_value(error: Any) -> str:
    """The parameter, what was found, and what is allowed."""
    name = error.param.get_error_hint().strip("'")
    text = error.message.removeprefix("Value error, ")
    if choices := _CHOICES.fullmatch(text):
        allowed = re.findall("'(.*?)'", choices["allowed"])
        near = difflib.get_close_matches(choices["found"], allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{name}: is {choices['found']!r}; give one of {', '.join(allowed)}{hint}"
    # pydantic's, from which Typer takes the text and not the value.
    problems = error.__cause__.errors() if hasattr(error.__cause__, "errors") else ()
    found = f"is {problems[0]['input']!r}; " if problems else ""
    return f"{name}: {found}{_uncapitalised(text)}"


def _uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]
