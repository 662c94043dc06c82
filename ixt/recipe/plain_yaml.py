"""Read YAML that says plainly what it means: no tags, merges, anchors, or endless nesting."""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from ixt.errors import RecipeError, first_line

_MAX_DEPTH = 20
_MAX_DIGITS = 100
_NUMBER = re.compile(r"[-+.]?[0-9]")


def read_plain(text: str, source: str, *, lines: bool = True) -> Any:
    """The value of a YAML 1.2 text: mappings, lists, texts, numbers, booleans and null.

    Args:
        text: one document.
        source: what messages call it.
        lines: whether messages give the line.

    Raises:
        RecipeError: it is not YAML, or uses what a recipe does without.
    """
    try:
        _refuse_unplain(text, source, lines)
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark and lines else ""
        problem = (error.problem or "not YAML").splitlines()[0]
        raise RecipeError(f"{source}{line}: {problem}") from None
    except (YAMLError, ValueError, TypeError) as error:  # e.g. month 13, a list as a key
        raise RecipeError(f"{source}: is not YAML: {first_line(error)}") from None


def _refuse_unplain(text: str, source: str, lines: bool) -> None:
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        problem = _unplain(event, depth)
        if problem is not None:
            line = f":{event.start_mark.line + 1}" if lines else ""
            raise RecipeError(f"{source}{line}: {problem}")


def _unplain(event: Any, depth: int) -> str | None:
    """What a recipe does without, and what to write instead."""
    if isinstance(event, AliasEvent):
        return f"*{event.anchor}: YAML aliases are not supported; write the value here"
    if not isinstance(event, ScalarEvent | CollectionStartEvent):
        return None
    if event.anchor:
        return f"&{event.anchor}: YAML anchors are not supported; write each value where it is used"
    if event.tag:
        return f"{event.tag}: YAML tags are not supported; write the value without the tag"
    if depth > _MAX_DEPTH:
        return f"is nested more than {_MAX_DEPTH} levels deep; a recipe has sections with keys"
    if isinstance(event, ScalarEvent) and event.style is None:
        if event.value == "<<":
            return "<<: YAML merge keys are not supported; write the keys here"
        if len(event.value) > _MAX_DIGITS and _NUMBER.match(event.value):
            return f"is a number of {len(event.value)} characters; give at most {_MAX_DIGITS}"
    return None
