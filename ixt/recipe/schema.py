"""The recipe: its sections together, and the one place that collects their contradictions.

Each section has its module. Defaults live there only; a docstring under each field gives its unit.
Names follow timm and the paper's scripts where they have one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ixt.recipe.augment import Augment
from ixt.recipe.contradictions import BETWEEN
from ixt.recipe.curriculum import MICRO_BATCH, Curriculum
from ixt.recipe.data import Data
from ixt.recipe.engine import Engine, fitting_global_batch, largest_micro_batch
from ixt.recipe.model import Model
from ixt.recipe.optim import Ema, Optim, Schedule
from ixt.recipe.run import Eval, RunSettings
from ixt.recipe.section import Problem, Section
from ixt.recipe.teacher import Teacher

CONTRADICTION = "contradiction"
"""Type of a pydantic error about a value that is right by itself; its message is the sentence."""


class Recipe(Section):
    """One training run, completely."""

    model: Model
    data: Data = Data()
    augment: Augment = Augment()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    curriculum: Curriculum = Curriculum()
    teacher: Teacher = Teacher()
    ema: Ema = Ema()
    engine: Engine = Engine()
    eval: Eval = Eval()
    run: RunSettings = RunSettings()

    @property
    def mixing_group(self) -> int:
        """Images per mixing group, resolved."""
        return self.augment.mixing_group or self.engine.micro_batch_size

    @property
    def mixes(self) -> bool:
        """Whether images are mixed in some epoch."""
        ends = (epoch for bounds in self.curriculum.bounds() for epoch in bounds)
        return self.augment.mixes or any(self.in_epoch(epoch).augment.mixes for epoch in ends)

    @property
    def num_shares(self) -> int:
        """Parts of an update that processes can share: micro-batches, or what auto can make.

        Of each phase's parts, the largest common divisor.
        """
        own = self.engine.global_batch_size // (self.mixing_group if self.mixes else 1)
        if not self.engine.is_auto and (self.mixes or self._gives("micro_batch_size")):
            own = self.engine.micro_batches
        phases = (engine for key, engine in self.engines() if key != "engine")
        return math.gcd(own, *(each.micro_batches for each in phases if not each.is_auto))

    def engines(self) -> Iterator[tuple[str, Engine]]:
        """The engine section, and that of each phase with a micro-batch of its own, by key."""
        yield "engine", self.engine
        for number, (first, _) in enumerate(self.curriculum.bounds()):
            if MICRO_BATCH in self.curriculum.phases[number].settings:
                yield f"curriculum.phases.{number}.settings", self.in_epoch(first).engine

    def _gives(self, setting: str) -> bool:
        """Whether the engine section gives a setting, or leaves it to its default."""
        return setting in self.engine.model_fields_set

    def with_batches(self, num_images: int, num_processes: int) -> Self:
        """This recipe with numbers for the batch sizes that it leaves open.

        Args:
            num_images: training images.
            num_processes: that share an update.
        """
        engine = self.engine
        total, micro = engine.global_batch_size, engine.micro_batch_size
        if not self._gives("global_batch_size") and num_images < total:
            unit = micro if self._gives("micro_batch_size") else self.augment.mixing_group
            unit = unit or 1
            total = max(fitting_global_batch(num_images) // unit, 1) * unit
        if not self._gives("micro_batch_size"):
            share, rest = divmod(total, num_processes)
            # Which images are mixed must not depend on the number of processes.
            micro = largest_micro_batch(total if rest or self.mixes else share)
        return self.with_(engine={"global_batch_size": total, "micro_batch_size": micro})

    def in_single_batches(self, size: int) -> Self:
        """This recipe with updates of one micro-batch, in every phase."""
        count = len(self.curriculum.phases)
        changed = self.with_(engine={"global_batch_size": size, "micro_batch_size": size})
        curriculum = self.curriculum.with_micro_batches([size] * count)
        return changed.model_copy(update={"curriculum": curriculum})

    def image_size_by_epoch(self) -> list[int]:
        """Side of the square training image in pixels."""
        own, epochs = self.augment.image_size, range(self.schedule.total_epochs)
        return [self.curriculum.values(e).get("augment.image_size", own) for e in epochs]

    @property
    def eval_size(self) -> int:
        """Side of the square test image in pixels, resolved."""
        return self.eval.image_size or self.augment.image_size

    def fitting_micro_batches(self, num_processes: int) -> list[int]:
        """Micro-batches that divide a process's share and that mixing allows, largest first.

        Empty where the processes cannot share the update at all.
        """
        share, rest = divmod(self.engine.global_batch_size, num_processes)
        if rest:
            return []
        multiple = (self.augment.mixing_group or 2) if self.mixes else 1
        return [m for m in range(share, 0, -1) if share % m == 0 and m % multiple == 0]

    def with_(self, **sections: Mapping[str, Any]) -> Self:
        """This recipe with some settings replaced: `recipe.with_(engine={"compile": False})`.

        The values are not checked again; see `ixt.recipe.parse_recipe` for those of users.
        """
        changed = {
            name: getattr(self, name).model_copy(update=dict(values))
            for name, values in sections.items()
        }
        return self.model_copy(update=changed)

    def in_epoch(self, epoch: int) -> Self:
        """The recipe whose settings hold in an epoch, counted from 0; itself without a curriculum.

        Raises:
            ValidationError: a value of the phase has the wrong type or size.
        """
        return self.with_checked(self.curriculum.values(epoch))

    def with_checked(self, values: Mapping[str, Any]) -> Self:
        """This recipe with values by their dotted keys, each checked in its section."""
        sections: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            name, _, setting = key.partition(".")
            given = sections.setdefault(name, getattr(self, name).model_dump(exclude_unset=True))
            given[setting] = value
        changed = {n: type(getattr(self, n)).model_validate(d) for n, d in sections.items()}
        return self.model_copy(update=changed) if changed else self

    def problems(self) -> Iterator[Problem]:
        """Contradictions within and between sections."""
        yield from _contradictions({name: getattr(self, name) for name in type(self).model_fields})

    @model_validator(mode="wrap")
    @classmethod
    def _without_problems(cls, data: Any, parse: ModelWrapValidatorHandler[Self]) -> Self:
        """Report wrong values and contradictions together, whatever section they are in."""
        wrong: list[Any] = []
        try:
            recipe = parse(data)
            problems = recipe.problems()
        except ValidationError as error:
            if not isinstance(data, Mapping):
                raise
            # A default that follows from other values is no mistake of its own.
            wrong = [e for e in error.errors() if e["type"] != "default_factory_not_called"]
            problems = _contradictions(_valid_sections(data, {item["loc"][0] for item in wrong}))
        for key, sentence in problems:
            kind = PydanticCustomError(CONTRADICTION, "{sentence}", {"sentence": sentence})
            wrong.append({"type": kind, "loc": tuple(key.split(".")), "input": None})
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return recipe


def _valid_sections(data: Mapping[str, Any], wrong: set[int | str]) -> dict[str, Any]:
    """The sections of plain data whose values are right by themselves, the defaults included."""
    kinds: dict[str, Any] = {name: f.annotation for name, f in Recipe.model_fields.items()}
    return {
        name: kind.model_validate(data.get(name, {}))
        for name, kind in kinds.items()
        if name not in wrong
    }


def _contradictions(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Contradictions within these sections, and between those of them that are here."""
    for name, section in sections.items():
        for key, sentence in section.problems():
            yield f"{name}.{key}", sentence
    for names, check in BETWEEN:
        if sections.keys() >= set(names):
            yield from check(*(sections[name] for name in names))
