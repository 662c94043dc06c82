"""`ixt eval` beside timm's validate.py: `python tests/benchmarks/evaluate.py [images] [rounds]`.

The same weights (tf_efficientnet_lite0), photographs, batch size, cores and process start for
both; they take turns. timm's side is its public API driven as validate.py drives it, with the
number of loader workers, 0 to 4, that is fastest here. Prints the median images per second,
reading and decoding included, the start of the process left out, and the numbers found.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

BATCH_SIZE = 64
SIDES = ("timm", "ixt torch", "ixt exact")


def child(side: str, root: Path, weights: Path, num_workers: int) -> None:
    """Evaluate once in this process and print the result."""
    import timm_validate

    from ixt.evaluate.candidates import Source
    from ixt.evaluate.evaluation import Settings, run_evaluation

    numbers: dict[str, Any]
    start_s = time.perf_counter()
    if side == "timm":
        numbers = asdict(timm_validate.validate(weights, root, BATCH_SIZE, num_workers))
    else:
        decoder: Any = side.removeprefix("ixt ")
        settings = Settings(batch_size=BATCH_SIZE, decoders=(decoder,))
        outcome = run_evaluation([Source(weights, timm_validate.MODEL)], str(root), settings)
        numbers = {key: outcome.rows[0][key] for key in ("top1", "top5", "loss", "count")}
    elapsed_s = time.perf_counter() - start_s
    print(json.dumps({**numbers, "images_per_s": numbers["count"] / elapsed_s}))


def run(side: str, root: Path, weights: Path, num_workers: int = 0) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", side, str(root), str(weights), str(num_workers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(num_images: int = 600, rounds: int = 3) -> None:
    import timm_validate

    with tempfile.TemporaryDirectory() as folder:
        root = timm_validate.write_photos(Path(folder) / "photos", num_images // 6)
        weights = timm_validate.write_weights(Path(folder) / "lite0.pth")
        speeds = {n: run("timm", root, weights, n)["images_per_s"] for n in (0, 1, 2, 4)}
        best = max(speeds, key=lambda n: speeds[n])
        print(f"timm's loader is fastest with {best} workers of 0, 1, 2, 4")
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _ in range(rounds):
            for side in SIDES:
                found[side].append(run(side, root, weights, best))
    for side, results in found.items():
        speed = statistics.median(result["images_per_s"] for result in results)
        last = results[-1]
        print(
            f"{side:10} {speed:7.1f} images/s  top-1 {last['top1']:.4f}  top-5 {last['top5']:.4f}"
            f"  loss {last['loss']:.6f}  images {last['count']}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
    else:
        main(*map(int, sys.argv[1:]))
