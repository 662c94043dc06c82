"""One process of several that train recipes one after another: `worker.py jobs.json`.

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

import torch
from accelerate.state import AcceleratorState
from no_gpu import stand_in
from torch.profiler import ProfilerActivity, profile

from ixt import train as training
from ixt.recipe import parse_recipe
from ixt.train import train

PROFILED_STEP = 2


def count_collectives(run_dir: Path) -> None:
    """Write down what the processes say to each other in one update."""
    step = training.train_step

    def counting(run: Any, number: int, *rest: Any) -> None:
        if number != PROFILED_STEP:
            return step(run, number, *rest)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            step(run, number, *rest)
        counts = Counter(e.name for e in profiled.events() if e.name.startswith("c10d::"))
        if os.environ["RANK"] == "0":
            (run_dir / "collectives.json").write_text(json.dumps(counts))
        return None

    training.train_step = counting


def main() -> None:
    warnings.simplefilter("error")
    original = training.train_step
    for job in json.loads(Path(sys.argv[1]).read_text()):
        os.environ["MASTER_PORT"] = str(job["port"])
        run_dir = Path(job["run_dir"])
        settings = job["recipe"]["engine"]
        if "cuda_graph" in settings:
            places = stand_in(setattr)
        if job["count"]:
            count_collectives(run_dir)
        try:
            train(parse_recipe(job["recipe"]), run_dir, job["resume"])
            if settings.get("cuda_graph"):
                (run_dir / "gradients.json").write_text(json.dumps(len(places)))
        finally:
            training.train_step = original
            AcceleratorState._reset_state(reset_partial_state=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
