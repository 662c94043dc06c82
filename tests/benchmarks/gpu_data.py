"""What only a GPU can show of the data path: `python tests/benchmarks/gpu_data.py OUT.json`.

On generated JPEGs of ImageNet's size, in one command:

pixels        mixed decoding against libjpeg-turbo's, in grey levels; one batch in two orders, with
              no and with all images on the hardware decoder
rates         images per second of each stage by CPU threads, decoding on the GPU (by the share of
              the hardware decoder) or on the CPU
memory        of the device and of the process, over 200 batches

OUT.json names the device. Without a CUDA device the script refuses, but for --rehearse, which takes
the same way with DALI's operators for CPUs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from photo_set import NUM_CLASSES, mean_kb, write_photos

from ixt.bench.data.demand import find_demand
from ixt.bench.data.stages import Setting, bench_data
from ixt.images.index import load_index
from ixt.pipeline.decode.base import Decoder, GpuDecoding, Request
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.plan.crop import train_crops
from ixt.recipe import Recipe, find_recipe, load_recipe

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH, NUM_BATCHES = (128, 200) if DEVICE == "cuda" else (16, 10)
MODES = {
    "mixed, load 0": GpuDecoding("gpu", 0.0),
    "mixed, load 1": GpuDecoding("gpu", 1.0),
    "CPU decode, GPU resize": GpuDecoding("cpu"),
}
if DEVICE == "cpu":
    MODES = {"CPU": GpuDecoding()}


def recipe_for(root: Path, gpu: GpuDecoding, *more: str) -> Recipe:
    """The paper's recipe on the generated images, decoded by DALI in one mode."""
    changes = [
        f"data.root={root}",
        "data.decoder=dali",
        f"data.decode_device={gpu.decode_device}",
        f"data.hw_decoder_load={gpu.hw_decoder_load}",
        f"model.num_classes={NUM_CLASSES}",
        f"engine.micro_batch_size={BATCH}",
        f"engine.global_batch_size={BATCH}",
    ]
    return load_recipe(find_recipe("inceptionnext_tiny"), [*changes, *more])


def batch_of(root: Path, order: Any = slice(None)) -> Request:
    """The first images of the training set, cut as training does, in some order."""
    index = load_index(root, "train")
    rows = np.arange(BATCH)[order]
    return Request(index.ranges(rows), train_crops(index.sizes[rows], (0, 0, rows), size=224))


@contextmanager
def decoder_of(device: str, gpu: GpuDecoding | None = None, threads: int = 4) -> Iterator[Decoder]:
    """DALI on a device."""
    decoder = make_decoder(
        "dali",
        device=torch.device(device),
        num_threads=threads,
        prefetch=2,
        on_error="stop",
        gpu=gpu or GpuDecoding(),
    )
    with closing(decoder):
        yield decoder


def check_pixels(root: Path) -> dict[str, Any]:
    """Differences from DALI's CPU decoder, and whether a batch's order changes any pixel."""
    with decoder_of("cpu") as decoder:
        expected = next(iter(decoder.stream([batch_of(root)]))).images.float().clone()
    found: dict[str, Any] = {}
    for name, gpu in MODES.items():
        with decoder_of(DEVICE, gpu) as decoder:
            stream = iter(decoder.stream([batch_of(root), batch_of(root, slice(None, None, -1))]))
            first, turned = (next(stream).images.cpu() for _ in range(2))
        difference = (first.float() - expected).abs()
        found[name] = {
            "mean_difference": difference.mean().item(),
            "largest_difference": difference.max().item(),
            "independent_of_order": torch.equal(turned.flip(0), first),
        }
    return found


def measure_rates(root: Path, threads: list[int], seconds: float) -> dict[str, Any]:
    """The stages of `ixt bench data` in each mode."""
    found = {}
    for name, gpu in MODES.items():
        recipe = recipe_for(root, gpu)
        settings = [Setting("dali", count, 2) for count in threads]
        report = bench_data(recipe, settings, find_demand(recipe, None, None), seconds)
        found[name] = report.as_json()
    return found


def measure_memory(root: Path) -> dict[str, Any]:
    """Memory after each of many batches, and by how much the second half's peak is higher."""
    request, found = batch_of(root), {}
    for name, gpu in MODES.items():
        device_mib, process_mib = [], []
        with decoder_of(DEVICE, gpu) as decoder:
            for _ in decoder.stream([request] * NUM_BATCHES):
                free, total = torch.cuda.mem_get_info() if DEVICE == "cuda" else (0, 0)
                device_mib.append((total - free) / 2**20)
                process_mib.append(psutil.Process().memory_info().rss / 2**20)
        half = NUM_BATCHES // 2
        found[name] = {
            f"{place}_{key}": value
            for place, used in (("device", device_mib), ("process", process_mib))
            for key, value in (
                ("peak_mib", max(used)),
                ("growth_mib", max(used[half:]) - max(used[:half])),
            )
        }
    return found


PARTS = ("pixels", "rates", "memory")


def main() -> None:
    """Run the parts and write the file, after each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--threads", default="2,4,8,16")
    parser.add_argument("--seconds", type=float, default=5.0, help="per stage and setting")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--data", type=Path, help="photographs, made if there are none")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU")
    given = parser.parse_args()
    if DEVICE == "cpu" and not given.rehearse:
        sys.exit("gpu_data.py: no CUDA device here; run it on a machine with an NVIDIA GPU")
    threads = [int(count) for count in given.threads.split(",")]
    kept = nullcontext(given.data) if given.data else tempfile.TemporaryDirectory()
    with kept as name:
        root = Path(name)
        if not (root / "val").exists():
            root.mkdir(parents=True, exist_ok=True)
            write_photos(root, given.images, 2 * BATCH)
        found: dict[str, Any] = {
            "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
            "images": {"mean_kb": mean_kb(root)},
            "modes": {mode: asdict(gpu) for mode, gpu in MODES.items()},
        }
        measures: dict[str, Callable[[], object]] = {
            "pixels": lambda: check_pixels(root),
            "rates": lambda: measure_rates(root, threads, given.seconds),
            "memory": lambda: measure_memory(root),
        }
        for part in given.parts.split(","):
            if part:
                found[part] = measures[part]()
            given.out.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{part or 'photographs'}: done", flush=True)
    photographs = f"photographs of {found['images']['mean_kb']:.0f} KB on average"
    measured = given.parts.replace(",", " and ")
    print(f"{measured} measured with {photographs}" if measured else f"{photographs} are ready")


if __name__ == "__main__":
    main()
