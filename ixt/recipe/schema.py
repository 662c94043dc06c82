"""The recipe: its sections together, and what of them must fit together.

Each section has its module. Defaults live there only; a docstring under each field gives its unit.
Names follow timm and the paper's scripts where they have one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import model_validator

from ixt.recipe.augment import Augment
from ixt.recipe.data import Data
from ixt.recipe.engine import Engine
from ixt.recipe.graphs import graph_problems
from ixt.recipe.model import Model
from ixt.recipe.optim import Ema, Optim, Schedule
from ixt.recipe.run import Eval, RunSettings
from ixt.recipe.section import Section
from ixt.recipe.sharding import fused_problems, optimizer_problems


class Recipe(Section):
    """One training run, completely."""

    model: Model
    data: Data = Data()
    augment: Augment = Augment()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    ema: Ema = Ema()
    engine: Engine = Engine()
    eval: Eval = Eval()
    run: RunSettings = RunSettings()

    @property
    def mixing_group(self) -> int:
        """Images per mixing group, resolved."""
        return self.augment.mixing_group or self.engine.micro_batch_size

    @property
    def num_shares(self) -> int:
        """Parts of an update that processes can share: micro-batches, or what auto can make."""
        if not self.engine.is_auto:
            return self.engine.micro_batches
        return self.engine.global_batch_size // (self.mixing_group if self.augment.mixes else 1)

    @property
    def eval_size(self) -> int:
        """Side of the square test image in pixels, resolved."""
        return self.eval.image_size or self.augment.image_size

    def with_(self, **sections: Mapping[str, Any]) -> Self:
        """This recipe with some settings replaced: `recipe.with_(engine={"compile": False})`.

        The values are not checked again; see `ixt.recipe.parse_recipe` for those of users.
        """
        changed = {
            name: getattr(self, name).model_copy(update=dict(values))
            for name, values in sections.items()
        }
        return self.model_copy(update=changed)

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        micro, group = self.engine.micro_batch_size, self.mixing_group
        if self.augment.mixes and not group:
            raise ValueError(
                "engine.micro_batch_size is auto; give augment.mixing_group, so that which images "
                "are mixed does not depend on the device"
            )
        if self.augment.mixes and micro % group:
            raise ValueError(
                f"engine.micro_batch_size {micro} is not a multiple of "
                f"augment.mixing_group {group}; change one of them"
            )
        if self.augment.mixes and group % 2:
            raise ValueError(
                f"engine.micro_batch_size is {micro}; mixing pairs images: give an even number"
            )
        for problem in optimizer_problems(self.engine, self.optim):
            raise ValueError(problem)
        for problem in (*fused_problems(self.model, self.engine), *graph_problems(self)):
            raise ValueError(problem)
        if self.augment.repeats > self.engine.global_batch_size:
            raise ValueError(
                f"augment.repeats is {self.augment.repeats}, more than engine.global_batch_size "
                f"{self.engine.global_batch_size}; repeats of a sample share an update"
            )
        if self.optim.bce_target_threshold is not None and self.optim.loss != "bce":
            raise ValueError("optim.bce_target_threshold acts only with optim.loss: bce")
        return self
