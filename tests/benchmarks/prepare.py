"""Speed of `ixt data prepare` against GNU tar: `python tests/benchmarks/prepare.py [FOLDER]`.

A training tar of 16 classes and 507 MB is made in FOLDER (on the disk to be measured) and taken
apart into class folders, its pages dropped from memory before each run. GNU tar does what the
usual shell script does: unpack the class tars, then each of them, with and without md5sum first.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ixt.tools.prepare.splits import prepare
from ixt.tools.prepare.task import Archive, ArchiveSet, Options, Sources

NUM_CLASSES, NUM_PER_CLASS, IMAGE_BYTES = 16, 288, 110_000
RUNS = 3


def make_tar(path: Path) -> ArchiveSet:
    content = os.urandom(IMAGE_BYTES)
    with tarfile.open(path, "w") as outer:
        for place in range(NUM_CLASSES):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for number in range(NUM_PER_CLASS):
                    add(inner, f"n{place:08}_{number}.JPEG", content)
            add(outer, f"n{place:08}.tar", buffer.getvalue())
    with path.open("rb") as file:
        archive = Archive(path.name, hashlib.file_digest(file, "md5").hexdigest())
    return ArchiveSet(archive, archive, NUM_CLASSES * NUM_PER_CLASS, 0, NUM_CLASSES)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def with_gnu_tar(path: Path, out: Path, md5: bool) -> None:
    if md5:
        subprocess.run(["md5sum", path], check=True, stdout=subprocess.DEVNULL)
    out.mkdir()
    subprocess.run(["tar", "xf", path, "-C", out], check=True)
    for inner in sorted(out.glob("*.tar")):
        (out / inner.stem).mkdir()
        subprocess.run(["tar", "xf", inner, "-C", out / inner.stem], check=True)
        inner.unlink()


def best_s(path: Path, out: Path, work: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        os.sync()
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start_s = time.perf_counter()
        work()
        os.sync()
        times.append(time.perf_counter() - start_s)
        shutil.rmtree(out)
    return min(times)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        path, out = Path(folder, "train.tar"), Path(folder, "out")
        published = make_tar(path)
        works: dict[str, Callable[[], object]] = {}
        for md5 in (True, False):
            note = "MD5" if md5 else "no MD5"
            works[f"GNU tar, {note}"] = partial(with_gnu_tar, path, out, md5)
            for num_threads in (1, 2, 4):
                options = Options(verify=md5, num_threads=num_threads)
                works[f"ixt, {num_threads} threads, {note}"] = partial(
                    prepare, out, Sources(train=path), options, published
                )
        for name, work in works.items():
            elapsed_s = best_s(path, out, work)
            print(
                f"{name}: {elapsed_s:.2f} s, {published.num_train / elapsed_s:,.0f} files/s, "
                f"{path.stat().st_size / elapsed_s / 1e6:,.0f} MB/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
