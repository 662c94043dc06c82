"""How long the first batch takes, early and late in a long run.

    python tests/benchmarks/resume_time.py

An index of ImageNet's size (1,281,167 rows, all of the same photo-sized JPEG), the recipe
inceptionnext_tiny with 256 images per update. What a resumed run does before its first update and
what depends on the step is here: the epoch's order, the plan, decoding, augmentation. Reading the
checkpoint does not depend on the step.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ixt.images.headers import ImageFormat
from ixt.images.index import Index
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.loader import TrainLoader
from ixt.pipeline.plan.plan import build_planner
from ixt.recipe import Recipe, find_recipe, load_recipe

NUM_IMAGES = 1_281_167
HEIGHT, WIDTH = 375, 500
STEPS = (0, 1, 2_500, 5_000, 100_000, 1_000_000)
REPEATS = 3


def build_index(folder: Path) -> Index:
    """Rows that all show the same file."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    Image.fromarray(noise).resize((WIDTH, HEIGHT)).save(folder / "a.jpg", quality=90)
    name = np.frombuffer(b"a.jpg", np.uint8)
    return Index(
        root=folder,
        folder=folder,
        classes=tuple(f"n{number:08d}" for number in range(1000)),
        labels=(np.arange(NUM_IMAGES) % 1000).astype(np.int32),
        sizes=np.tile(np.array([[HEIGHT, WIDTH]], np.int32), (NUM_IMAGES, 1)),
        num_bytes=np.full(NUM_IMAGES, (folder / "a.jpg").stat().st_size),
        formats=np.full(NUM_IMAGES, ImageFormat.JPEG, np.uint8),
        path_blob=np.tile(name, NUM_IMAGES),
        path_offsets=np.arange(NUM_IMAGES + 1) * len(name),
    )


def build_loader(recipe: Recipe, index: Index) -> TrainLoader:
    device = torch.device("cpu")
    labels = index.labels.astype(np.int64)
    return TrainLoader(
        index,
        build_planner(recipe, labels, index.sizes),
        make_decoder("torch", device=device, num_threads=1, prefetch=1, on_error="stop"),
        recipe,
        num_classes=1000,
        device=device,
        rank=0,
        world_size=1,
    )


def main() -> None:
    sizes = ["engine.global_batch_size=256", "engine.micro_batch_size=64"]
    recipe = load_recipe(find_recipe("inceptionnext_tiny"), sizes)
    with tempfile.TemporaryDirectory() as name:
        loader = build_loader(recipe, build_index(Path(name)))
        next(loader.epoch(0))
        for step in STEPS:
            times = []
            for _ in range(REPEATS):
                start_s = time.perf_counter()
                epoch, done = divmod(step, loader.updates_per_epoch)
                next(loader.epoch(epoch, first_update=done))
                times.append(time.perf_counter() - start_s)
            print(
                f"step {step:9,} (epoch {epoch}, update {done}): "
                f"first batch after {statistics.median(times):.2f} s"
            )


if __name__ == "__main__":
    main()
