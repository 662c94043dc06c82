"""The index of as many WebDataset members as ImageNet has: seconds to build and load it, memory.

    python tests/benchmarks/webdataset_index.py [--images 1281167] [--folder DIR]

The members are JPEG headers of 640 bytes with a `.cls` beside each: 2 KiB an image, 2.6 GB in all.
Building and loading run in a fresh process each; memory is the most that it ever held (RSS), the
libraries included. How long plain reading of the same bytes takes is printed beside.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

IMAGENET, SHARDS, CLASSES = 1_281_167, 1024, 1000
_HEAD = 640  # up to the size of the picture and a little more


def write_shards(root: Path, count: int) -> None:
    """Write the shards; each class has about as many images, in no order."""
    content = io.BytesIO()
    Image.new("RGB", (500, 375)).save(content, "JPEG")
    image = content.getvalue()[:_HEAD].ljust(1024, b"\0")
    labels = np.random.default_rng(0).integers(0, CLASSES, count)
    labels[:CLASSES] = np.arange(CLASSES)
    for shard, rows in enumerate(np.array_split(np.arange(count), min(SHARDS, count // CLASSES))):
        with (root / f"imagenet1k-train-{shard:04}.tar").open("wb") as file:
            for row in rows.tolist():
                text = str(labels[row]).encode()
                file.write(_header(f"{row:08}.jpg", _HEAD) + image)
                file.write(_header(f"{row:08}.cls", len(text)) + text.ljust(512, b"\0"))
            file.write(bytes(1024))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def index(root: str) -> dict[str, float]:
    """Build the index, or load it where it is built."""
    from ixt.images.index import load_index

    before_s = time.perf_counter()
    found = load_index(root, "train")
    seconds = time.perf_counter() - before_s
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images": len(found), "seconds": seconds, "most_mib": most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGENET)
    parser.add_argument("--folder", type=Path, help="on the file system to measure")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(index(given.one)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        write_shards(Path(name), given.images)
        start_s = time.perf_counter()
        for path in sorted(Path(name).glob("*.tar")):
            path.read_bytes()
        print(f"plain reading {time.perf_counter() - start_s:.1f} s", flush=True)
        for what in ("build", "load", "load"):
            command = [sys.executable, __file__, "--one", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout)
            print(
                f"{what} {row['images']:,} images: {row['seconds']:.2f} s, at most "
                f"{row['most_mib']:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
