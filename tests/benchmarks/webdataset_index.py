"""The index of as many WebDataset members as ImageNet has: seconds to build and load it, memory.

    python tests/benchmarks/webdataset_index.py [--images 1281167] [--folder DIR] [--format pax]

The members are JPEG headers of 640 bytes with a `.cls` beside each, as GNU tar writes them: 2.5 KiB
an image, 3.3 GB in all; or as webdataset.TarWriter does, in pax with times in fractions, 4.5 KiB.
Building and loading run in a fresh process each; memory is the most that it ever held (RSS), the
libraries included. CPU time says more where other programs run. How long plain reading of the same
bytes takes is printed beside.
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
from typing import Literal

import numpy as np
from PIL import Image

IMAGENET, SHARDS, CLASSES = 1_281_167, 1024, 1000
TarFormat = Literal[0, 1, 2]  # as tarfile numbers them
_FORMATS: dict[str, TarFormat] = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
_HEAD = 640  # up to the size of the picture and a little more


def write_shards(root: Path, count: int, kind: TarFormat = tarfile.GNU_FORMAT) -> None:
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
                file.write(_header(f"{row:08}.jpg", _HEAD, kind) + image)
                label = _header(f"{row:08}.cls", len(text), kind)
                file.write(label + text.ljust(512, b"\0"))
            file.write(bytes(1024))


def _header(name: str, size: int, kind: TarFormat) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, 1.7e9 + 1 / 3
    return info.tobuf(kind)


def index(root: str) -> dict[str, float]:
    """Build the index, or load it where it is built."""
    from ixt.images.index import load_index

    before_s = time.perf_counter()
    found = load_index(root, "train")
    seconds = time.perf_counter() - before_s
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images": len(found), "seconds": seconds, "cpu": time.process_time(), "most_mib": most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGENET)
    parser.add_argument("--folder", type=Path, help="on the file system to measure")
    parser.add_argument("--format", choices=_FORMATS, default="gnu")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(index(given.one)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        write_shards(Path(name), given.images, _FORMATS[given.format])
        start_s = time.perf_counter()
        for path in sorted(Path(name).glob("*.tar")):
            path.read_bytes()
        print(f"plain reading {time.perf_counter() - start_s:.1f} s", flush=True)
        for what in ("build", "load", "load"):
            command = [sys.executable, __file__, "--one", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout)
            print(
                f"{what} {row['images']:,} images: {row['seconds']:.2f} s, "
                f"{row['cpu']:.2f} s of CPU time with imports, at most {row['most_mib']:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
