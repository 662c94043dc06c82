"""The loaders of ixt beside timm's: the same JPEGs, the same recipe, images per second and memory.

    python tests/benchmarks/loader.py [--rounds 5] [--size 224] [--results FILE.json]

Every measurement runs in a fresh process, contenders in turn (A B C A B C), and medians over the
rounds are compared. On a shared machine look at the CPU time per image, which is the sum over
the process and its workers; wall-clock rates are what the machine's other work left.

crop         RandomResizedCrop and flip, uint8 batches on the device
recipe       inceptionnext_tiny: RandAugment, mixup or CutMix, erasing, normalised float32
validation   resize, centre crop, normalised float32
first_batch  seconds from a warm index of 1,281,167 images to the first batch of an epoch
memory       most resident memory in each of several epochs of `recipe`, workers included
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from photo_set import NUM_CLASSES, mean_kb, write_photos

CONTENDERS = ("timm", "torch", "dali")
CASES = ("crop", "recipe", "validation", "first_batch", "memory")
TARGETS = {"crop": (1.8, 2.3), "recipe": (1.7, 2.1), "validation": (3.0, 3.0)}
BATCH, THREADS = 128, 2
EPOCHS = 3
SIZE = int(os.environ.get("LOADER_SIZE", "224"))
IMAGENET = 1_281_167


def timm_epochs(case: str, root: Path) -> Iterator[Iterable[Any]]:
    """The batches of timm's loader, epoch after epoch, on the CPU."""
    import torch
    from timm.data import FastCollateMixup, create_dataset, create_loader

    train = case != "validation"
    full = case in ("recipe", "memory", "first_batch")
    options: dict[str, Any] = {"color_jitter": 0.0}
    if full:
        mixing = FastCollateMixup(
            mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=NUM_CLASSES
        )
        options |= {
            "auto_augment": "rand-m9-mstd0.5-inc1",
            "re_prob": 0.25,
            "re_mode": "pixel",
            "collate_fn": mixing,
        }
    loader = create_loader(
        create_dataset("", root / ("train" if train else "val")),
        SIZE,
        BATCH,
        is_training=train,
        num_workers=THREADS,
        interpolation="random" if train else "bicubic",
        crop_pct=0.875,
        device=torch.device("cpu"),
        **options,
    )
    while True:
        # Below the prefetcher, which normalises, the batches are uint8.
        yield loader.loader if case == "crop" else loader


def own_epochs(case: str, root: Path | str, kind: str) -> Iterator[Iterable[Any]]:
    """The batches of this project's loaders, epoch after epoch, on the CPU."""
    import torch

    from ixt.images.classes import output_classes
    from ixt.images.index import load_index, target_labels
    from ixt.pipeline.decode.factory import make_decoder
    from ixt.pipeline.eval_loader import EvalLoader
    from ixt.pipeline.loader import TrainLoader
    from ixt.pipeline.plan.plan import build_planner
    from ixt.recipe import find_recipe, load_recipe

    device = torch.device("cpu")
    sizes = [f"engine.global_batch_size={BATCH}", f"engine.micro_batch_size={BATCH}"]
    sizes.append(f"augment.image_size={SIZE}")
    recipe = load_recipe(find_recipe("inceptionnext_tiny"), sizes)
    index = load_index(root, "val" if case == "validation" else "train")
    labels = target_labels(index, output_classes(index.classes, None))
    decoder = make_decoder(
        kind,  # type: ignore[arg-type]
        device=device,
        num_threads=THREADS,
        prefetch=recipe.data.prefetch_batches,
        on_error="stop",
    )
    where: dict[str, Any] = {"device": device, "rank": 0, "world_size": 1}
    if case == "validation":
        while True:
            yield EvalLoader(index, labels, decoder, recipe, **where)
    planner = build_planner(recipe, labels, index.sizes)
    loader = TrainLoader(index, planner, decoder, recipe, num_classes=len(index.classes), **where)
    for epoch in range(10**9):
        yield loader.decode(epoch) if case == "crop" else loader.epoch(epoch)


def epochs(contender: str, case: str, root: Path) -> Iterator[Iterable[Any]]:
    """The epochs of one contender."""
    if contender == "timm":
        return timm_epochs(case, root)
    return own_epochs(case, root, contender)


def cpu_s() -> float:
    """CPU time of this process and of its running children."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return float(sum(spent.user + spent.system for spent in times))


def resident_mib() -> float:
    """Memory of this process and its children, shared pages counted once."""
    me = psutil.Process()
    held = (p.memory_full_info().pss for p in (me, *me.children(recursive=True)))
    return float(sum(held)) / 2**20


def measure_rate(contender: str, case: str, root: Path) -> dict[str, float]:
    """Images per second and CPU milliseconds per image over whole epochs, after one of warm-up.

    Whole epochs, because loaders work ahead: within one, what is counted was begun before.
    """
    stream = epochs(contender, case, root)
    count = sum(1 for _ in next(stream)) * BATCH * EPOCHS
    start_s, start_cpu_s = time.perf_counter(), cpu_s()
    for epoch in islice(stream, EPOCHS):
        for _ in epoch:
            pass
    return {
        "images_per_s": count / (time.perf_counter() - start_s),
        "cpu_ms_per_image": (cpu_s() - start_cpu_s) / count * 1000,
    }


def measure_memory(contender: str, root: Path) -> dict[str, Any]:
    """Most memory in each epoch, looked at after every batch."""
    stream = epochs(contender, "memory", root)
    peaks = [max(resident_mib() for _ in epoch) for epoch in islice(stream, 2 * EPOCHS)]
    return {"peak_mib": max(peaks), "peak_mib_of_epochs": peaks}


def measure_first_batch(contender: str, root: Path) -> dict[str, float]:
    """Seconds from the call to the first batch; libraries and photographs are warm."""
    if contender == "timm":
        start_s = time.perf_counter()
        next(iter(next(timm_epochs("first_batch", root))))
        return {"seconds": time.perf_counter() - start_s}
    import torch

    from ixt.images import index as index_module
    from ixt.images.index import load_index

    small = load_index(root, "train")
    whole = repeat_index(small, IMAGENET)
    index_module.load_index = lambda *_: whole
    torch.ones(1)
    start_s = time.perf_counter()
    next(iter(next(own_epochs("first_batch", root, contender))))
    return {"seconds": time.perf_counter() - start_s}


def repeat_index(index: Any, count: int) -> Any:
    """An index of `count` rows, all of them files of a small one."""
    from dataclasses import replace

    import numpy as np

    rows = np.arange(count) % len(index)
    lengths = np.diff(index.path_offsets)[rows]
    blob = index.path_blob.tobytes()
    return replace(
        index,
        labels=index.labels[rows],
        sizes=index.sizes[rows],
        num_bytes=index.num_bytes[rows],
        formats=index.formats[rows],
        path_blob=np.frombuffer((blob * (count // len(index) + 1)), np.uint8),
        path_offsets=np.concatenate([[0], np.cumsum(lengths)]),
    )


def measure(contender: str, case: str, root: Path) -> dict[str, Any]:
    """One measurement in this process."""
    if case == "memory":
        return measure_memory(contender, root)
    if case == "first_batch":
        return measure_first_batch(contender, root)
    return measure_rate(contender, case, root)


def run(contender: str, case: str, root: Path) -> dict[str, Any]:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--one", contender, case, str(root)]
    # What the `ixt` command sets for itself before torch is loaded.
    own = {} if contender == "timm" else {"THP_MEM_ALLOC_ENABLE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **own}
    )
    if done.returncode:
        raise SystemExit(f"{contender} {case}: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def summarise(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the rounds."""
    keys = [key for key, value in rows[0].items() if not isinstance(value, list)]
    return {key: statistics.median(row[key] for row in rows) for key in keys}


def show(case: str, medians: dict[str, dict[str, float]]) -> None:
    """Print one case's medians, and the ratios to timm where a rate was measured."""
    for contender, row in medians.items():
        text = "  ".join(f"{key} {value:9.2f}" for key, value in row.items())
        if case in TARGETS and contender != "timm" and "timm" in medians:
            wall = row["images_per_s"] / medians["timm"]["images_per_s"]
            cpu = medians["timm"]["cpu_ms_per_image"] / row["cpu_ms_per_image"]
            target = TARGETS[case][contender == "dali"]
            text += f"  x{wall:.2f} by wall clock, x{cpu:.2f} by CPU time (target x{target})"
        print(f"{case:12s} {contender:9s} {text}", flush=True)


def main() -> None:
    """Measure everything, or with --one a single thing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs=3)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--size", default="224", help="side of the training images in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("LOADER_SIZE", given.size)  # of the processes that measure
    if given.one:
        contender, case, root = given.one
        print(json.dumps(measure(contender, case, Path(root))))
        return
    contenders, cases = given.contenders.split(","), given.cases.split(",")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        # Whole batches, as each counts for BATCH images.
        write_photos(root, given.images // BATCH * BATCH, 2 * BATCH)
        print(f"{given.images} training JPEGs of 500 x 375, {mean_kb(root):.0f} KB on average")
        found: dict[str, Any] = {}
        for case in cases:
            rows: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
            for _ in range(given.rounds):
                for contender in contenders:
                    rows[contender].append(run(contender, case, root))
            medians = {name: summarise(taken) for name, taken in rows.items()}
            show(case, medians)
            found[case] = {"medians": medians, "rounds": rows}
    if given.results is not None:
        given.results.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
