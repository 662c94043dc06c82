"""The steps of the four slices of a day, on a GPU and in a rehearsal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from day_packages import ROOT, required
from step_runner import FAILED, GOOD, NEEDS_GPU, Ended, Step, read_results

Judge = Callable[[Ended], tuple[str, str]]

TESTS = ("pytest", "pytest-xdist", "scikit-learn", "scikit-image")
DALI = ("nvidia-dali-cuda130", "nvidia-nvimgcodec-cu13")
PHOTOS = ("scikit-learn", "scikit-image")
KEPT = ("kernels.json", "bench.json", "paper.json")
"""Files of `ixt bench` that lie beside the slices' own."""
DALI_TESTS = "tests/pipeline/test_decode_dali.py"
REHEARSAL_FACTOR = 4.0  # a rehearsal's processor may be slow and shared


@dataclass(frozen=True)
class Place:
    """Where a slice works."""

    out: Path
    """Results, which are brought back."""
    scratch: Path
    """Images and runs, which are not."""
    rehearse: bool

    def result(self, name: str) -> Path:
        return self.scratch / f"{name}.json"


def steps_of(name: str, place: Place) -> list[Step]:
    """The steps of slice a, b, c or d."""
    steps = {"a": _correctness, "b": _kernels_and_step, "c": _paper, "d": _data}[name](place)
    if place.rehearse:
        return [replace(s, budget_s=REHEARSAL_FACTOR * s.budget_s, on_gpu=False) for s in steps]
    return steps


def search_path(folder: Path) -> str:
    """PYTHONPATH with a folder before what it has, for any working folder."""
    former = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([str(folder), *(os.path.abspath(path) for path in former if path)])


def _ixt(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ixt", *map(str, arguments)]


def _script(file: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "tests" / file), *map(str, arguments)]


def _correctness(place: Place) -> list[Step]:
    smoke = place.result("smoke")
    options = ("--rehearse", "--workers", 2) if place.rehearse else ("--workers", 6)
    return [
        Step("nvidia-smi", ["sh", "-c", "nvidia-smi -q && nvidia-smi"], 15, 5, on_gpu=False,
             judge=_only_on_gpu(place, lambda e: _status(e, "see day.log"))),
        Step("doctor", _ixt("doctor", "--run-dir", place.scratch / "doctor"), 45,
             needs=required(), on_gpu=False),
        _tests(place, "kernel tests", ["tests/kernels"], 200, 6),
        _tests(place, "other GPU tests", _files_with_gpu_tests(), 120, 4),
        Step("smoke matrix", _script("gpu/smoke.py", smoke, "--work", place.scratch / "smoke",
                                     *options),
             300, 60, result=smoke, resumes=True, needs=required()),
    ]  # fmt: skip


def _files_with_gpu_tests() -> list[str]:
    """Modules with tests that need a GPU, but for kernels and DALI."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [
        str(file.relative_to(ROOT))
        for file in files
        if "mark.gpu" in file.read_text()
        and file.parent.name not in ("kernels", "gpu")
        and str(file.relative_to(ROOT)) != DALI_TESTS
    ]


def _tests(
    place: Place, name: str, paths: list[str], budget_s: float, workers: int, *needs: str
) -> Step:
    """`pytest -m gpu`; a rehearsal collects them, and runs one of the interpreted kernels."""
    result = place.result(name.replace(" ", "-"))
    which = ["-m", "gpu", "-n", str(workers), *paths]
    judge: Judge = judge_tests
    if place.rehearse and name == "kernel tests":
        which = ["-n", "2", "tests/kernels/test_interpreted.py", "-k", "odd_sizes"]
    elif place.rehearse:
        which = ["-m", "gpu", "--collect-only", "-q", *paths]
        judge = _collected
    command = [sys.executable, "-m", "pytest", "-p", "gpu_results", "-p", "no:cacheprovider"]
    return Step(
        name,
        [*command, "--rootdir", str(ROOT), *which],
        budget_s,
        result=result,
        env={"IXT_GPU_RESULTS": str(result), "PYTHONPATH": search_path(ROOT / "tests" / "gpu")},
        needs=(*required(), *TESTS, *needs),
        judge=judge,
    )


def _collected(ended: Ended) -> tuple[str, str]:
    """The verdict of a rehearsal, which collects the tests and runs none."""
    return (FAILED if ended.status else NEEDS_GPU), f"here: {ended.last_line}"


def judge_tests(ended: Ended) -> tuple[str, str]:
    """Counts of outcomes, and the first failures by name."""
    tests: dict[str, Any] = ended.result or {}
    if not tests:
        return FAILED, f"no test has ended: {ended.last_line}"
    names = {
        outcome: [name for name, row in tests.items() if row["outcome"] == outcome]
        for outcome in ("passed", "failed", "skipped")
    }
    line = ", ".join(f"{len(found)} {outcome}" for outcome, found in names.items() if found)
    for name in names["failed"][:3]:
        line += f"; {name.rpartition('::')[2]}: {tests[name]['reason']}"
    return (GOOD if ended.status == 0 else FAILED), line


def _kernels_and_step(place: Place) -> list[Step]:
    kernels, bench = place.out / "kernels.json", place.out / "bench.json"
    models: tuple[str, ...] = ("inceptionnext_tiny", "convnext_tiny", "resnet50")
    common: tuple[object, ...] = ("--mode", "train", "--rounds", 1, "--seconds", 4)
    precisions = "tf32,amp-bf16"
    sizes: tuple[object, ...] = ("--batch-size", 128)
    if place.rehearse:
        models = ("test_resnet",)
        common, precisions = ("--mode", "train", "--rounds", 1, "--seconds", 0.3), "fp32"
        sizes = ("--batch-size", 4, "--image-size", 64)
    cells = (*models, *common, "--precision", precisions, *sizes, "--results", bench)
    return [
        Step("kernels", _ixt("bench", "kernels", "inceptionnext_tiny", "--results", kernels),
             190, 60, needs=required(), judge=_only_on_gpu(place, _judge_kernels(kernels))),
        Step("eager steps", _ixt("bench", *cells, *_resumed(bench)), 160, 30,
             needs=required(), judge=_judge_bench(bench)),
        Step("compiled steps", _ixt("bench", *cells, "--compile", "on", "--resume"), 200, 60,
             needs=required(), judge=_judge_bench(bench)),
    ]  # fmt: skip


def _paper(place: Place) -> list[Step]:
    paper = place.out / "paper.json"
    options: tuple[object, ...] = ("--quick",)
    if place.rehearse:
        small = ("--mode", "infer", "--layout", "contiguous", "--batch-size", 2)
        options = ("--rounds", 1, "--seconds", 0.1, *small, "--image-size", 32)
    command = _ixt("bench", "--paper", *options, "--results", paper, *_resumed(paper))
    return [Step("paper", command, 560, 60, needs=required(), judge=_judge_bench(paper))]


def _resumed(results: Path) -> tuple[str, ...]:
    return ("--resume",) if results.exists() else ()


def _data(place: Place) -> list[Step]:
    photos = place.scratch / "photos"
    rehearse = ("--rehearse",) if place.rehearse else ()
    threads, seconds = ("1,2", 0.2) if place.rehearse else ("4,16", 1.0)
    images = 64 if place.rehearse else 1024

    def part(name: str, parts: str, budget_s: float, *needs: str) -> Step:
        result = place.result(name.replace(" ", "-"))
        options = ("--data", photos, "--images", images, "--threads", threads)
        return Step(
            name,
            _script("benchmarks/gpu_data.py", result, "--parts", parts, *options,
                    "--seconds", seconds, *rehearse),
            budget_s,
            result=result,
            needs=(*required(), *PHOTOS, *needs),
        )  # fmt: skip

    steps = place.result("training-steps")
    return [
        replace(part("photographs", "", 80), leaves=photos / "val"),
        _tests(place, "DALI tests", [DALI_TESTS], 60, 1, *DALI),
        part("pixels and memory", "pixels,memory", 90, *DALI),
        part("rates", "rates", 100, *DALI),
        Step("training steps", _script("gpu/training_steps.py", steps, "--data", photos,
                                       "--seconds", seconds, *rehearse),
             240, 45, result=steps, resumes=True, needs=(*required(), *PHOTOS)),
    ]  # fmt: skip


def _status(ended: Ended, line: str) -> tuple[str, str]:
    return (GOOD, line) if ended.status == 0 else (FAILED, ended.last_line)


def _only_on_gpu(place: Place, judge: Judge) -> Judge:
    """In a rehearsal, the step is said to need a GPU, with what came out here."""
    if not place.rehearse:
        return judge
    return lambda ended: (NEEDS_GPU, f"here: {judge(ended)[1]}")


def _judge_bench(file: Path) -> Judge:
    """How many cells have a figure, why others have none, and the fastest."""

    def judge(ended: Ended) -> tuple[str, str]:
        if not file.exists():
            return FAILED, ended.last_line
        rows = read_results(file, "rows")["rows"]
        measured = [row for row in rows if row["images_per_s"] is not None]
        planned = f"of {len(rows)} cells measured" if ended.status == 0 else "cells measured so far"
        line = f"{len(measured)} {planned}"
        if measured:
            best = max(measured, key=lambda row: float(row["images_per_s"]))
            line += f", the fastest {best['model']} with {best['images_per_s']:,.0f} images/s"
        errors = {row["error"] for row in rows if row["error"]}
        line += "".join(f"; {error}" for error in sorted(errors)[:3])
        if ended.status:
            line += f"; {ended.last_line}"
        return (GOOD if ended.status == 0 and measured else FAILED), line

    return judge


def _judge_kernels(file: Path) -> Judge:
    def judge(ended: Ended) -> tuple[str, str]:
        if ended.status != 0 or not file.exists():
            return FAILED, ended.last_line
        return GOOD, f"{len(read_results(file, 'rows')['rows'])} rows in {file.name}"

    return judge
