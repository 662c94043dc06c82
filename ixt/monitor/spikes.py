"""Updates whose loss stands out, and the command that shows what they were made of."""

from __future__ import annotations

import math
import shlex
import statistics
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ixt.recipe import Recipe

SPIKES = "spikes.jsonl"

_WINDOW = 200
_ENOUGH = 20  # losses before a standard deviation says anything
_LEAST_SPREAD = 1e-3  # of the mean: a loss that hardly moves has no spikes


class Spikes:
    """Compares each loss with the ones shortly before it."""

    def __init__(self, sigma: float | None) -> None:
        """Start without losses; one stands out `sigma` standard deviations above the mean.

        With None, no loss stands out.
        """
        self._sigma = sigma
        self._recent: deque[float] = deque(maxlen=_WINDOW)

    def find(self, losses: Iterable[float]) -> dict[int, float]:
        """Which of the next losses stand out: place to standard deviations above the mean.

        A loss that is not finite always does, by infinity; it does not enter the mean.
        """
        found = {}
        for place, loss in enumerate(losses):
            if not math.isfinite(loss):
                found[place] = math.inf
                continue
            if self._sigma is not None and len(self._recent) >= _ENOUGH:
                mean = statistics.fmean(self._recent)
                spread = max(statistics.pstdev(self._recent, mean), _LEAST_SPREAD * abs(mean))
                if spread and loss > mean + self._sigma * spread:
                    found[place] = (loss - mean) / spread
            self._recent.append(loss)
        return found


def spike_row(
    recipe: Recipe, run_dir: Path, step: int, updates_per_epoch: int, loss: float, lr: float
) -> dict[str, Any]:
    """What `spikes.jsonl` says of an update: its loss, and where its images are.

    `recipe` is as in the run's folder; `step` counts the updates before this one; `loss` is the
    mean over the update, and becomes text where JSON lacks the number.
    """
    epoch, update = divmod(step, updates_per_epoch)
    count = recipe.engine.global_batch_size
    first = update * count
    words = ["ixt", "data", "show", str(recipe.data.root), "--recipe", str(run_dir)]
    words += ["--epoch", str(epoch), "--position", str(first), "--count", str(count)]
    return {
        "step": step + 1,
        "epoch": epoch,
        "loss": loss if math.isfinite(loss) else str(loss),
        "lr": lr,
        "positions": [first, first + count - 1],
        "show": shlex.join(words),
    }
