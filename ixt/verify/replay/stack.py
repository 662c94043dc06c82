"""Whether two checkpoints were trained on one stack, where equal updates have equal bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ixt.checkpoint.folder import Checkpoint
from ixt.recipe import parse_stored

# Keys of `describe_machine`.
_FACTS = ("ixt", "git_commit", "cuda", "cudnn", "cpu", "processes")
_SHOWN = 3


def stack_differences(recorded: Checkpoint, replayed: Checkpoint) -> list[str]:
    """What differs between the stacks of two checkpoints, in words; nothing where they are one."""
    then, now = _stack(recorded.state), _stack(replayed.state)
    return [
        f"{name} was {_text(then.get(name))} and is {_text(now.get(name))}"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]


def few(differences: list[str]) -> str:
    """The first of them."""
    more = len(differences) - _SHOWN
    return "; ".join(differences[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _stack(state: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how sums are rounded: hardware, versions, processes and the engine."""
    machine = state.get("machine", {})
    devices = sorted({*machine.get("devices", [])})
    facts = {name: machine.get(name) for name in _FACTS}
    if not devices:
        facts["threads"] = machine.get("threads")
    packages = machine.get("packages", {})
    engine = parse_stored(state["recipe"]).engine.model_dump(exclude={"hang_timeout_s"})
    keys = {f"engine.{key}": value for key, value in engine.items()}
    return {**facts, "devices": devices, **packages, **keys}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)
