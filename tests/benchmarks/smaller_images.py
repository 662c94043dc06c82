"""What smaller stored images (`ixt data pack --max-side`) spare a loader, and do to its pixels.

    python tests/benchmarks/smaller_images.py [--sides 400,320,256] [--results FILE.json]

Everything that inceptionnext_tiny does to an image, at 224 pixels and at the 160 of the fast
recipes' first phase: from JPEGs of 500 x 375 and from packs of them. Each measurement is a fresh
process on the same single core, in turn (A B C A B C); medians over the rounds. On a shared machine
the CPU time counts.

Pixels are those of the crops before any augmentation, with the same seed: the mean absolute
difference from those of the originals, in grey levels.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import loader
import torch
from photo_set import mean_kb, write_photos

from ixt.images.index import load_index
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack

SIZES = (224, 160)


def crops(root: Path, decoder: str, size: int) -> torch.Tensor:
    """(n, 3, size, size) uint8: the training crops of an epoch."""
    loader.SIZE = size
    return torch.cat([batch.images for batch in next(loader.own_epochs("crop", root, decoder))])


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean absolute difference in grey levels."""
    return (one.int() - other.int()).abs().double().mean().item()


def stored_kb(root: Path) -> float:
    """Mean length of the training images in 1000 bytes."""
    return float(load_index(root, "train").num_bytes.mean()) / 1000


def rates(roots: dict[str, Path], decoder: str, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of each set at each size."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for (name, root), size in product(roots.items(), SIZES):
            os.environ["LOADER_SIZE"] = str(size)
            rows.setdefault(f"{name} at {size}", []).append(loader.run(decoder, "recipe", root))
    return {name: loader.summarise(taken) for name, taken in rows.items()}


def main() -> None:
    """Measure rates and differences."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sides", default="400,320,256", help="longer sides of stored images")
    parser.add_argument("--decoder", default="dali", help="dali or torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as name:
        roots = {"originals": Path(name) / "originals"}
        roots["originals"].mkdir()
        batches = given.images // loader.BATCH
        write_photos(roots["originals"], batches * loader.BATCH, loader.BATCH)
        print(f"{batches * loader.BATCH} JPEGs of 500 x 375, {mean_kb(roots['originals']):.0f} KB")
        for side in given.sides.split(","):
            roots[f"max-side {side}"] = Path(name) / side
            pack(roots["originals"], Path(name) / side, PackOptions(max_side=int(side)))
        found = rates(roots, given.decoder, given.rounds)
        for size in SIZES:
            reference = crops(roots["originals"], given.decoder, size)
            for key, root in roots.items():
                changed = difference(crops(root, given.decoder, size), reference)
                found[f"{key} at {size}"] |= {"kb": stored_kb(root), "grey_levels": changed}
    own = found[f"originals at {SIZES[0]}"]["cpu_ms_per_image"]
    for key, row in found.items():
        row["gain"] = own / row["cpu_ms_per_image"]
        print(
            f"{key:20s} {row['kb']:5.0f} KB  {row['images_per_s']:6.0f} images/s  "
            f"{row['cpu_ms_per_image']:5.2f} ms CPU, x{row['gain']:.2f}  "
            f"{row['grey_levels']:5.2f} grey levels"
        )
    if given.results is not None:
        rounded = {k: {n: round(v, 3) for n, v in row.items()} for k, row in found.items()}
        given.results.write_text(json.dumps(rounded, indent=1) + "\n")


if __name__ == "__main__":
    main()
