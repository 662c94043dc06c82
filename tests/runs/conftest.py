from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ixt.distributed.run_status import State, new_status, write_status
from ixt.recipe import Recipe

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path, tiny: Recipe) -> MakeRun:
    """Writes the small files of a run, as training does; gives its folder."""

    def make(
        name: str,
        state: State = "finished",
        words: str | None = None,
        metrics: str = "",
        **sections: dict[str, Any],
    ) -> Path:
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        recipe = tiny.with_(**sections).model_dump(mode="json")
        write_status(run, new_status(state, recipe, 5, words))
        (run / "metrics.jsonl").write_text(metrics)
        return run

    return make
