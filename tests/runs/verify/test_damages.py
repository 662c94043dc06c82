"""Damage anywhere in what ixt wrote is found: bits flipped, files cut off, files gone."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ixt.errors import IxtError
from ixt.export import export_checkpoint
from ixt.images.byte_ranges import read_bytes
from ixt.images.index import load_index
from ixt.recipe import load_recipe
from ixt.runs.verify import verify
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack

FEW_OR_MANY = [pytest.param(24, id="few"), pytest.param(150, id="many", marks=pytest.mark.slow)]


def damages(folder: Path, count: int) -> Iterator[str]:
    """Damage one file below a folder at a time, in words; it is put back afterwards."""
    rng = np.random.default_rng(0)
    # What ran where is written down for people; nothing is computed from it.
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "machine.json"]
    files = [path for path in files if path.stat().st_size]
    for _ in range(count):
        file = files[rng.integers(len(files))]
        whole, status = file.read_bytes(), file.stat()
        kind = rng.choice(["flip", "flip", "flip", "cut", "gone"])
        at = int(rng.integers(len(whole)))
        if kind == "gone":
            file.unlink()
        else:
            damaged = bytearray(whole[:at] if kind == "cut" else whole)
            if kind == "flip":
                damaged[at] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
        yield f"{kind} {file.relative_to(folder)} at {at} of {len(whole)}"
        file.write_bytes(whole)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def sweep(
    folder: Path, path: Path, count: int, used: Callable[[], Any], data: str | None = None
) -> Counter[str]:
    """Damage a folder many times; how often `verify` found it, and how often nothing was lost.

    Args:
        folder: what is damaged.
        path: what is verified.
        count: how many damages.
        used: reads what is used of it; the damage is harmless where that stays the same.
        data: given to `verify`.
    """
    before, outcomes = used(), Counter[str]()
    for damage in damages(folder, count):
        try:
            found = not all(finding.ok for finding in verify(path, data))
        except IxtError:
            found = True  # not even recognised
        if not found:
            assert used() == before, f"silent: {damage}"
        outcomes["found" if found else "harmless"] += 1
    print(f"{path.name}: {dict(outcomes)}")
    return outcomes


@pytest.mark.parametrize("count", FEW_OR_MANY)
def test_no_damage_to_a_run_is_silent(trained: Path, tmp_path: Path, count: int) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    outcomes = sweep(run, run, count, lambda: load_recipe(run / "recipe.yaml"))
    assert outcomes["found"] > count // 2


@pytest.mark.parametrize("count", FEW_OR_MANY)
def test_no_damage_to_a_packed_set_is_silent(digits: Path, tmp_path: Path, count: int) -> None:
    small = tmp_path / "small"
    for split in ("train", "val"):
        for name in ("one", "two"):
            images = sorted((digits / split / name).iterdir())[:6]
            (small / split / name).mkdir(parents=True)
            for image in images:
                shutil.copy(image, small / split / name)
    root = pack(small, tmp_path / "packed", PackOptions(shard_bytes=8_000)).root

    def images_of_it() -> list[Any]:
        shutil.rmtree(root / ".ixt", ignore_errors=True)
        indexes = [load_index(root, split) for split in ("train", "val")]
        return [
            (source.name, label, read_bytes(source).tobytes())
            for index in indexes
            for source, label in zip(
                index.ranges(np.arange(len(index))), index.labels.tolist(), strict=True
            )
        ]

    outcomes = sweep(root, root, count, images_of_it)
    assert outcomes["found"] > count // 4  # much of a tar this small is padding


@pytest.mark.parametrize("count", FEW_OR_MANY)
@pytest.mark.parametrize("name", ["hub", "x.pth", "x.onnx"])
def test_no_damage_to_an_export_is_silent(
    trained: Path, tmp_path: Path, name: str, count: int
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    kind = {"hub": "hub", "x.pth": "timm-pth", "x.onnx": "onnx"}[name]
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    export_checkpoint(trained, place / name, kind, real_images=False)

    def content() -> dict[str, bytes]:
        files = [path for path in place.rglob("*") if path.is_file()]
        # A list of checksums that is gone, as earlier releases left exports, loses nothing.
        return {path.name: path.read_bytes() for path in files if "sha256" not in path.name.lower()}

    outcomes = sweep(place, place / name, count, content)
    assert outcomes["found"] > count // 2
