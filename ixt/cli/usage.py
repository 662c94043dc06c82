"""Mistakes in flags and arguments, reported in one line like any other mistake."""

from __future__ import annotations

import difflib
import re
from typing import Any

import typer

from ixt.errors import printable

_EXTRA = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((?P<words>.*)\)")
_ALLOWED = {
    "int_parsing": "give a whole number",
    "float_parsing": "give a number",
    "greater_than_equal": "give at least {ge}",
    "less_than_equal": "give at most {le}",
}
"""What is allowed, by pydantic's name for the mistake."""
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
    command = context.command_path if context is not None else "ixt"
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
    if extra := _EXTRA.fullmatch(error.format_message()):
        return f"{command}: unexpected argument {extra['words']}{see}"
    problem = error.format_message().rstrip(".").replace(". Did you mean", "; did you mean")
    return f"{command}: {_uncapitalised(problem)}{'' if problem.endswith('?') else see}"


def _wrong_value(error: Any) -> str:
    """The parameter, what was found, and what is allowed."""
    name = error.param.get_error_hint().strip("'")
    text = error.message.removeprefix("Value error, ")
    if choices := _CHOICES.fullmatch(text):
        names = re.findall("'(.*?)'", choices["allowed"])
        near = difflib.get_close_matches(choices["found"], names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{name}: is {choices['found']!r}; give one of {', '.join(names)}{hint}"
    # pydantic's, from which Typer takes the text and not the value.
    if not hasattr(error.__cause__, "errors"):
        return f"{name}: {_uncapitalised(text)}"
    problem = error.__cause__.errors()[0]
    known = _ALLOWED.get(problem["type"])
    allowed = known.format(**problem.get("ctx", {})) if known else _uncapitalised(text)
    return f"{name}: is {problem['input']!r}; {allowed}"


def _uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]
