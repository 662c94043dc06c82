"""Seconds to restore a 450 MB checkpoint from a bucket, and to download its files plainly.

    python tests/benchmarks/bucket_restore.py [--rounds 5]

AWS_ENDPOINT_URL names a server: see layouts.py. The two take turns, and the ratio is the median of
the rounds'. The plain download is s3fs', which verifies nothing; `restore` verifies each SHA-256.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ixt.checkpoint.folder import save_checkpoint
from ixt.runs.bucket.restore import restore
from ixt.storage.filesystems import filesystem_of
from ixt.storage.objects import write_file

MEGABYTES = 450


def write_run(base: Path, url: str) -> None:
    """Upload a checkpoint of weights, averages and two moments."""
    names = ("model", "ema", "first_moment", "second_moment")
    count = MEGABYTES * 10**6 // 4 // len(names)
    tensors = {name: {"weight": torch.rand(count)} for name in names}
    path = save_checkpoint(base, tensors, {"step": 1})
    filesystem_of(url, 30.0).mkdir(url.removeprefix("s3://").partition("/")[0])
    for file in path.iterdir():
        write_file(file, f"{url}/checkpoints/{path.name}/{file.name}")
    shutil.rmtree(path)


def seconds(call: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    url = f"s3://restore-{os.getpid()}/run"
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        write_run(base / "run", url)

        def plain() -> None:
            target = f"{base}/plain"
            filesystem_of(url, 30.0).get(
                f"{url}/checkpoints/step-000000001/", target, recursive=True
            )
            os.sync()

        def restored() -> None:
            restore(url, base / "restored")
            os.sync()

        pairs = []
        for _ in range(rounds):
            pairs.append((seconds(restored), seconds(plain)))
            for folder in ("restored", "plain"):
                shutil.rmtree(base / folder)
    ours, others = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"restore {ours:.2f} s, plain download {others:.2f} s, ratio of the rounds {ratio:.2f}")


if __name__ == "__main__":
    main()
