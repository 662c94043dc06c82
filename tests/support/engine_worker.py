"""One process of several that train recipes one after another: `engine_worker.py jobs.json`.

Starting processes costs more than these runs, so one pair of them takes many.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from no_gpu import TOLD_NCCL, stand_in
from torch.profiler import ProfilerActivity, profile

from ixt.recipe import parse_recipe
from ixt.training import loop as training
from ixt.training.loop import train

PROFILED_STEP = 2


def count_collectives(run_dir: Path, patch: pytest.MonkeyPatch) -> None:
    """Write down what the processes say to each other in one update."""
    step = training.train_step

    def counting(run: Any, number: int, *rest: Any) -> Any:
        if number != PROFILED_STEP:
            return step(run, number, *rest)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            loss = step(run, number, *rest)
        counts = Counter(e.name for e in profiled.events() if e.name.startswith("c10d::"))
        if os.environ["RANK"] == "0":
            (run_dir / "collectives.json").write_text(json.dumps(counts))
        return loss

    patch.setattr(training, "train_step", counting)


def main() -> None:
    warnings.simplefilter("error")
    for job in json.loads(Path(sys.argv[1]).read_text()):
        os.environ["MASTER_PORT"] = str(job["port"])
        os.environ.pop(TOLD_NCCL, None)
        run_dir = Path(job["run_dir"])
        with pytest.MonkeyPatch.context() as patch:
            seen = stand_in(patch.setattr) if "cuda_graph" in job["recipe"]["engine"] else None
            if job["count"]:
                count_collectives(run_dir, patch)
            try:
                train(parse_recipe(job["recipe"]), run_dir, job["resume"])
            finally:
                AcceleratorState._reset_state(reset_partial_state=True)
        if seen is not None:
            found = {"gradients": len(seen.gradients), "told": seen.told}
            (run_dir / "seen.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
