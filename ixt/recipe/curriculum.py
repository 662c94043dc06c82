"""The recipe's curriculum section: settings that change from epoch to epoch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Self

from ixt.recipe.augment import Augment
from ixt.recipe.section import Epochs, Problem, Section

_FIXED = ("repeats", "mean", "std", "mixing_group", "mix_mode")
MICRO_BATCH = "engine.micro_batch_size"
SETTABLE = (
    *(f"augment.{name}" for name in Augment.model_fields if name not in _FIXED),
    "model.drop_path_rate",
    MICRO_BATCH,
)
"""Keys that a phase may set: none changes which images an update takes, or the model's weights."""

_ALLOWED = f"keys of augment except {', '.join(_FIXED)}, model.drop_path_rate and {MICRO_BATCH}"
_RAMP = ({"from", "to"}, {"from", "to", "by"})
_STEPS = {"augment.image_size": 32}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


class Phase(Section):
    """Epochs with settings of their own."""

    until: Epochs
    """The epoch that the phase ends before, counted from 0."""
    settings: dict[str, Any]
    """Dotted key to value or to `{from: A, to: B}`."""


class Curriculum(Section):
    """Settings that change from epoch to epoch, e.g. small images first; not those of eval."""

    phases: tuple[Phase, ...] = ()
    """Phases one after the other, each `{until: EPOCH, settings: {KEY: VALUE}}` with keys of
    augment, model.drop_path_rate and engine.micro_batch_size (auto: the largest that fits with the
    images of the phase). The global batch stays: updates per epoch, learning rates and checkpoints'
    names follow from it. A phase ends before its epoch `until`, counted from 0; the epochs after
    the last one have the recipe's own settings. A value `{from: A, to: B}` changes linearly from
    the phase's first epoch to its last: numbers, lists of numbers, or the numbers in two texts of
    one form, e.g. rand-m0-mstd0.5-inc1 and rand-m9-mstd0.5-inc1. Whole numbers are rounded to
    multiples of a third key `by` (of augment.image_size: 32, else 1)."""

    def values(self, epoch: int) -> dict[str, Any]:
        """The settings of an epoch that differ from the recipe's own, by their dotted keys."""
        start = 0
        for phase in self.phases:
            if epoch < phase.until:
                share = (epoch - start) / max(phase.until - start - 1, 1)
                return {key: _value(key, item, share) for key, item in phase.settings.items()}
            start = phase.until
        return {}

    def bounds(self) -> Iterator[tuple[int, int]]:
        """First and last epoch of each phase."""
        start = 0
        for phase in self.phases:
            yield start, phase.until - 1
            start = phase.until

    def with_micro_batches(self, sizes: Sequence[int]) -> Self:
        """This curriculum with other micro-batches in those phases that have one of their own."""
        phases = (
            phase.model_copy(update={"settings": phase.settings | {MICRO_BATCH: size}})
            if MICRO_BATCH in phase.settings
            else phase
            for phase, size in zip(self.phases, sizes, strict=True)
        )
        return self.model_copy(update={"phases": tuple(phases)})

    def image_sizes(self) -> list[int]:
        """Sides of the training images in pixels that phases give, in order."""
        epochs = range(self.phases[-1].until if self.phases else 0)
        sizes = (self.values(epoch).get("augment.image_size") for epoch in epochs)
        return list(dict.fromkeys(size for size in sizes if size is not None))

    def num_versions(self) -> int:
        """Combinations of what an update is made for: image size, micro-batch, drop path."""
        epochs = range(self.phases[-1].until if self.phases else 0)
        keys = ("augment.image_size", MICRO_BATCH, "model.drop_path_rate")
        return len({tuple(map(self.values(epoch).get, keys)) for epoch in epochs})

    def problems(self) -> Iterator[Problem]:
        """Phases that are not one after the other, and settings that no phase can have."""
        for number, ((first, last), phase) in enumerate(
            zip(self.bounds(), self.phases, strict=True)
        ):
            key = f"phases.{number}"
            if last < first:
                yield f"{key}.until", f"is {phase.until}; the phase before ends there, give more"
            if not phase.settings:
                yield f"{key}.settings", "is empty; name what the phase changes, e.g. image_size"
            for name, value in phase.settings.items():
                sentence = _problem(name, value)
                if sentence is not None:
                    yield f"{key}.settings.{name}", sentence


def _problem(name: str, value: Any) -> str | None:
    if name not in SETTABLE:
        return f"cannot change; a phase sets {_ALLOWED}"
    if not isinstance(value, dict):
        return None
    if name == MICRO_BATCH:
        return "changes within the phase; give a number, or auto"
    if set(value) not in _RAMP:
        return f"has the keys {', '.join(map(str, value))}; give from and to, and maybe by"
    step = value.get("by", 1)
    if not isinstance(step, int) or isinstance(step, bool) or step < 1:
        return f"has by: {step!r}; give a whole number of at least 1"
    if _form(value["from"]) != _form(value["to"]):
        return f"changes from {value['from']!r} to {value['to']!r}; give two values of one form"
    return None


def _form(value: Any) -> Any:
    """What two ends of a ramp must have in common; itself where no number can change."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    if isinstance(value, str):
        return _NUMBER.sub("0", value)
    return [_form(item) for item in value] if isinstance(value, list | tuple) else value


def _value(key: str, value: Any, share: float) -> Any:
    """A setting at a share of its phase's way, from 0 to 1."""
    if not isinstance(value, dict):
        return value
    return _between(value["from"], value["to"], share, value.get("by", _STEPS.get(key, 1)))


def _between(first: Any, last: Any, share: float, step: int) -> Any:
    if isinstance(first, list | tuple):
        return [_between(a, b, share, step) for a, b in zip(first, last, strict=True)]
    if isinstance(first, str):
        return _text_between(first, last, share)
    if first == last or share in (0.0, 1.0):
        return last if share == 1.0 else first
    between = first + (last - first) * share
    if not (isinstance(first, int) and isinstance(last, int)):
        return between
    # A multiple may lie beyond the ends, e.g. 0 for an image size.
    return min(max(round(between / step) * step, min(first, last)), max(first, last))


def _text_between(first: str, last: str, share: float) -> str:
    """Two texts that differ in numbers only; the numbers change, whole ones by whole steps."""
    parts = zip(_NUMBER.split(first), _NUMBER.split(last), strict=True)
    return "".join(a if a == b else _digits(a, b, share) for a, b in parts)


def _digits(first: str, last: str, share: float) -> str:
    whole = "." not in first + last
    kind = int if whole else float
    return f"{_between(kind(first), kind(last), share, 1):g}"
