"""Matching the tensors of a file with a model's by their order, where the names are unknown.

Place by place, shape and last name (weight, bias, running_mean, ...) must agree. That leaves a
doubt where layers of the same shapes follow one another, such as query, key and value: another
program may list them in another order. Only names remove it: numbers that rise in the file and in
the model, or the same names in both. Where a doubt is left, nothing is matched.
What is trusted is that both programs list their layers in the order in which they are computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

State = Mapping[str, Tensor]
Pair = tuple[str, str]

_NUMBERED = re.compile(r"(\D*)(\d+)(\D*)")
_SHOWN = 3


@dataclass(frozen=True)
class OrderMatch:
    """Tensors of a file under the names of the model."""

    state: dict[str, Tensor]
    """Empty where they do not match."""
    problem: str | None
    """Why they do not match; None where they do."""
    told_apart: int = 0
    """Tensors beside others of the same shapes, which their numbers or names distinguish."""

    def describe(self) -> str:
        """One line: how many were matched, and how."""
        return (
            f"{len(self.state)} tensors matched by order and shape, without ambiguity; "
            f"{self.told_apart} of them have neighbours of the same shape, from which only the "
            "numbers in their names distinguish them"
        )


def match_by_order(state: State, own: State, head: set[str]) -> OrderMatch:
    """Match the tensors of a file with those of a model, one to one and in order.

    `head` are the model's names of its classifier, which may have another number of classes, or be
    missing in the file.
    """
    names = [key for key in state if not _is_counter(key)]
    wanted = [key for key in own if not _is_counter(key)]
    if len(names) == len(wanted) - len(head):
        wanted = [key for key in wanted if key not in head]
    if len(names) != len(wanted):
        return OrderMatch({}, f"it has {len(names)} tensors, but the model has {len(wanted)}")
    pairs = list(zip(names, wanted, strict=True))
    for name, key in pairs:
        if (problem := _mismatch(name, key, state, own, head)) is not None:
            return OrderMatch({}, problem)
    kinds = [(state[name].shape, _last(name)) for name in names]
    doubts, told_apart = [], set[int]()
    for run in _repetitions(kinds):
        ways = [[(pairs[i], pairs[i + run.period]) for i in places] for places in run.ways()]
        if not any(all(_is_told(*pair) for pair in way) for way in ways):
            doubts.append(next(p for p in ways[0] if not _is_told(*p)))
        told_apart |= set(range(run.start, run.start + run.length + run.period))
    if doubts:
        shown = ", ".join(f"{a[0]} and {b[0]}" for a, b in doubts[:_SHOWN])
        return OrderMatch({}, f"the order does not show which of {shown} is which")
    return OrderMatch({key: state[name] for name, key in pairs}, None, len(told_apart))


@dataclass(frozen=True)
class _Repetition:
    """Places whose kinds are those of the places one period later."""

    start: int
    length: int
    period: int

    def ways(self) -> Iterator[range]:
        """Every way to cut it into parts of a period: where the parts begin, but for the last."""
        for first in range(self.period):
            yield range(self.start + first, self.start + self.length, self.period)


def _repetitions(kinds: Sequence[tuple[object, str]]) -> Iterator[_Repetition]:
    """Sequences that are repeated at least once, one directly after the other."""
    for period in range(1, len(kinds) // 2 + 1):
        start = None
        for place in range(len(kinds) - period + 1):
            end = place == len(kinds) - period
            if not end and kinds[place] == kinds[place + period]:
                start = place if start is None else start
            elif start is not None:
                if place - start >= period:
                    yield _Repetition(start, place - start, period)
                start = None


def _mismatch(name: str, key: str, state: State, own: State, head: set[str]) -> str | None:
    found, wanted = state[name].shape, own[key].shape
    if key in head:
        found, wanted = found[1:], wanted[1:]
    if found != wanted:
        return f"{name} has the shape {tuple(state[name].shape)}, {key} {tuple(own[key].shape)}"
    if _last(name) != _last(key) or (name in own and name != key):
        return f"{name} stands where the model has {key}"
    return None


def _is_told(one: Pair, other: Pair) -> bool:
    """Whether names leave no doubt that one tensor comes before the other, in both programs."""
    in_file, in_model = (_differing(*names) for names in zip(one, other, strict=True))
    return in_file == in_model or (_rises(*in_file) and _rises(*in_model))


def _rises(part: str, later: str) -> bool:
    first, second = (_NUMBERED.fullmatch(text) for text in (part, later))
    if first is None or second is None:
        return False
    same = (first[1], first[3]) == (second[1], second[3])
    return same and int(first[2]) < int(second[2])


def _differing(name: str, other: str) -> Pair:
    """The first parts in which two dotted names differ; all of them where one begins the other."""
    parts = zip(name.split("."), other.split("."), strict=False)
    return next(((a, b) for a, b in parts if a != b), (name, other))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
