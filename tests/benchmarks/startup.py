"""How long commands take that have little to do.

    python tests/benchmarks/startup.py [--json FILE]

Prints a table of medians: seconds by the clock, and CPU seconds, which other programs disturb less.
The commands take turns, so that a busy minute hits all of them. What `plan` and `bench report`
count is kept from one turn to the next, but for "first time". The JSON file also holds what the
machine was and how busy it was.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ixt.distributed.machine import describe_machine
from ixt.files import write_json

RUNS = 5
SHORT = ("schedule.epochs=1", "schedule.warmup_epochs=0", "data.shots=10")
FIRST = ", first time"  # ends the names of what is measured with nothing kept
BENCH_RESULTS = Path(__file__).parents[1] / "results" / "bench_cpu.json"


def ixt(folder: Path, *words: str, status: int = 0) -> tuple[float, float]:
    """Run a command in a folder; its seconds by the clock, and its CPU seconds.

    Raises:
        RuntimeError: it ended with another exit status.
    """
    before, start_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, check=False
    )
    elapsed_s, after = time.perf_counter() - start_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != status:
        raise RuntimeError(f"{' '.join(words)}: status {done.returncode}: {done.stderr.decode()}")
    return elapsed_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commands(folder: Path) -> dict[str, tuple[tuple[str, ...], int]]:
    """What is measured, by name: the words after `ixt`, and the exit status."""
    data, run = str(folder / "data"), str(folder / "runs" / "demo")
    page = ("bench", "report", str(BENCH_RESULTS), "--out", "bench.html")
    image = str(next((folder / "data" / "val" / "three").iterdir()))
    return {
        "--help": (("--help",), 0),
        "explain": (("explain", "optim.lr"), 0),
        "train, a wrong recipe": (("train", "demo", "--set", "optim.lrr=1"), 2),
        "data check, nothing new": (("data", "check", data), 0),
        "runs": (("runs", str(folder / "runs")), 0),
        "report": (("report", run), 0),
        "verify of a run": (("verify", run), 0),
        "verify of an export": (("verify", str(folder / "export")), 0),
        f"bench report{FIRST}": (page, 0),
        "bench report": (page, 0),
        f"plan{FIRST}": (("plan", "inceptionnext_tiny"), 0),
        "plan": (("plan", "inceptionnext_tiny"), 0),
        "predict, one image": (("predict", run, image), 0),
        "predict, wrong weights": (("predict", str(folder / "wrong.pth"), image), 2),
        "eval, wrong weights": (("eval", "wrong.pth", "--data", data), 2),
        "resume, wrong weights": (("resume", "damaged"), 2),
        "finetune, wrong weights": (
            ("finetune", "demo", "--data", data, "--from", "wrong.pth", "--run-dir", "runs/none"),
            2,
        ),
        "finetune, other weights": (
            ("finetune", "demo", "--data", data, "--from", "other.pth", "--run-dir", "runs/none"),
            2,
        ),
        "doctor": (("doctor",), 0),
    }


def prepare(folder: Path) -> None:
    """Make demo data that was checked before, a short run, its export, and weights that fail."""
    overrides = [word for setting in SHORT for word in ("--set", setting)]
    ixt(folder, "-m", "ixt", "data", "demo", "data")
    ixt(folder, "-m", "ixt", "data", "check", "data")
    ixt(folder, "-m", "ixt", "train", "demo", "--data", "data", *overrides)
    ixt(folder, "-m", "ixt", "export", "runs/demo", "export", "--format", "timm-folder")
    (folder / "wrong.pth").write_bytes(b"no weights")
    ixt(folder, "-c", "import torch; torch.save({'a': torch.ones(1)}, 'other.pth')")
    shutil.copytree(folder / "runs" / "demo", folder / "damaged")
    for weights in (folder / "damaged" / "checkpoints").glob("*/model.safetensors"):
        weights.write_bytes(b"no weights")


def measure(folder: Path, runs: int) -> dict[str, dict[str, float]]:
    """Medians by command."""
    chosen = commands(folder)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    for _ in range(runs):
        for name, (words, status) in chosen.items():
            if name.endswith(FIRST):
                shutil.rmtree(folder / "cache" / "ixt" / "counts", ignore_errors=True)
            taken[name].append(ixt(folder, "-m", "ixt", *words, status=status))
    return {
        name: {
            "seconds": round(statistics.median(wall for wall, _ in pairs), 3),
            "cpu_seconds": round(statistics.median(cpu for _, cpu in pairs), 3),
        }
        for name, pairs in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="times that each command is run")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    load = [round(value, 2) for value in os.getloadavg()]
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        medians = measure(Path(folder), options.runs)
    print(f"{'command':<26}{'seconds':>9}{'CPU s':>9}")
    for name, row in medians.items():
        print(f"{name:<26}{row['seconds']:>9.2f}{row['cpu_seconds']:>9.2f}")
    after = [round(value, 2) for value in os.getloadavg()]
    print(f"medians of {options.runs}; load average {load} before, {after} after")
    if options.json is not None:
        conditions = {"runs": options.runs, "load_before": load, "load_after": after}
        machine = {**describe_machine(), "command": ["tests/benchmarks/startup.py"]}
        write_json(options.json, {"machine": machine, "conditions": conditions, "medians": medians})


if __name__ == "__main__":
    main()
