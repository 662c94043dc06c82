"""Early stopping: how long a run continues without a better score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ixt.checkpoint.score import score_of


@dataclass(frozen=True)
class Patience:
    """The best score so far and the evaluations since it; checkpoints hold both."""

    limit: int | None
    """Evaluations without a better score that end the run; None for no end."""
    best: float | None = None
    """Highest score, in percent; None before the first evaluation."""
    waited: int = 0
    """Evaluations since that one."""

    @property
    def is_over(self) -> bool:
        """Whether the run ends at the evaluation that was counted last."""
        return self.limit is not None and self.waited >= self.limit

    def after(self, metrics: Mapping[str, Any]) -> Patience:
        """Count an evaluation; an equal score does not count as better."""
        score = score_of(metrics)
        assert score is not None
        if self.best is None or score > self.best:
            return replace(self, best=score, waited=0)
        return replace(self, waited=self.waited + 1)

    def reason(self, epoch: int) -> str:
        """Why the run ends after an epoch, numbered from 0 as in every row."""
        return (
            f"ended early after epoch {epoch}; evaluations without a better score than "
            f"{self.best:.2f}: {self.waited} (run.patience is {self.limit})"
        )

    def row(self) -> dict[str, Any]:
        """What a checkpoint keeps of it; the limit is the recipe's."""
        return {key: value for key, value in asdict(self).items() if key != "limit"}

    def resumed(self, state: Mapping[str, Any]) -> Patience:
        """As a checkpoint kept it; one of an earlier version starts the count."""
        kept = state.get("patience")
        return replace(self, **(kept or {"best": state.get("score"), "waited": 0}))
