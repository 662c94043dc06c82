"""Tables, copies and suggestions from the recorded results of a GPU day."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import day_report
import pytest
from day_report import Rate, gain, rate_of, suggestions
from step_runner import GOOD, write_rows


def test_a_gain_counts_only_beyond_the_spread_of_both() -> None:
    old, new = Rate(100.0, 0.02), Rate(110.0, 0.02)
    found = gain("step", "graph", new, "plain", old)
    assert found is not None
    assert found.ratio == pytest.approx(1.1)
    assert gain("step", "graph", Rate(110.0, 0.09), "plain", old) is None
    assert gain("step", "graph", Rate(102.0, 0.0), "plain", Rate(100.0, 0.0)) is None
    assert rate_of([98.0, 99.0, 100.0, 101.0, 102.0]).spread == pytest.approx(0.018)
    assert rate_of([100.0, 100.0]).spread == 1.0


def recorded_day(folder: Path, device: str | None, rehearsal: bool) -> None:
    """What slices leave: a smoke matrix, tests, and two settings of the training step."""

    def mode(rate: float) -> dict[str, Any]:
        windows = [rate * (1 + n / 1000) for n in range(-5, 6)]
        return {"images_per_s": rate, "images_per_s_of_windows": windows, "settled": True}

    def e2e(rate: float) -> dict[str, Any]:
        found = {name: mode(rate) for name in ("synthetic", "loader", "together")}
        return {**found, "verdict": "the loader is the bottleneck: figures"}

    def row(result: Any) -> dict[str, Any]:
        return {"status": GOOD, "line": "a | b", "seconds": 1.0, "commit": "abc", "result": result}

    machine = {"device": device, "packages": {"torch": "2.11.0"}}
    cells = {"tf32": {"status": GOOD, "line": "near", "difference": 1e-4, "bound": 1e-2}}
    tests = {"t.py::test_it": {"outcome": "failed", "seconds": 2.0, "reason": "E  1 != 2"}}
    settings = {"bf16": e2e(100.0), "bf16, NHWC, fused": e2e(180.0), "bf16, graph": {"error": "x"}}
    for name, steps in {
        "a": {"smoke matrix": row({"cells": cells}), "kernel tests": row(tests)},
        "d": {"training steps": row(settings)},
    }.items():
        content = {"slice": name, "rehearsal": rehearsal, "machine": machine, "steps": steps}
        write_rows(folder / f"{name}.json", content)


def bench_rows(*rows: tuple[str, float]) -> dict[str, Any]:
    shared = {"model": "resnet50", "mode": "train", "precision": "tf32", "compile": False}
    sizes = {"batch_size": 8, "image_size": 224}
    return {
        "rows": [
            {**shared, **sizes, "layout": layout, "images_per_s": rate,
             "rounds": [{"rates": [0.99 * rate, rate, 1.01 * rate]}]}
            for layout, rate in rows
        ]
    }  # fmt: skip


def test_a_report_has_tables_suggestions_and_copies_under_the_devices_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, results = tmp_path / "back", tmp_path / "results"
    folder.mkdir()
    recorded_day(folder, "NVIDIA H100 80GB", rehearsal=False)
    write_rows(folder / "kernels.json", {"rows": []})
    assert day_report.write_report(folder, results) == 0
    advice = (
        "training step, synthetic: bf16, NHWC, fused was 1.80x of bf16 (spread 0.9%): "
        "set engine.channels_last=true, model.fused=true"
    )
    assert advice in capsys.readouterr().out
    text = (folder / "report" / "report.md").read_text()
    assert f"- {advice}" in text
    assert "| tf32 | good | 1.0e-04 | 1e-02 |  | near |" in text
    assert "| t.py::test_it | failed | 2.0 | E  1 != 2 |" in text
    assert "a \\| b" in text
    assert sorted(path.name for path in results.iterdir()) == [
        "nvidia_h100_80gb_day.json",
        "nvidia_h100_80gb_kernels.json",
    ]


def test_a_rehearsal_is_reported_and_never_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "back"
    folder.mkdir()
    recorded_day(folder, None, rehearsal=True)
    assert day_report.write_report(folder, tmp_path / "results") == 0
    assert "nothing is copied" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_benchmarks_suggest_a_layout_where_it_is_faster() -> None:
    found = list(
        day_report.gains_of_bench(bench_rows(("contiguous", 100.0), ("channels_last", 150.0)))
    )
    assert suggestions(found) == [
        "resnet50 train, tf32 channels_last: layout channels_last was 1.50x of contiguous "
        "(spread 1.8%)"
    ]
    assert not list(
        day_report.gains_of_bench(bench_rows(("contiguous", 100.0), ("channels_last", 101.0)))
    )
