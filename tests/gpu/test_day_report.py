"""Tables, copies and suggestions from the recorded results of a GPU day."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import day_report
import pytest
from day_report import Rate, advice_of_bench, advice_of_settings, is_faster, rate_of
from step_runner import FAILED, GOOD, Refused, write_rows


def test_a_gain_counts_only_beyond_the_spread_of_both() -> None:
    assert is_faster(Rate(110.0, 0.02), Rate(100.0, 0.02))
    assert not is_faster(Rate(110.0, 0.09), Rate(100.0, 0.02))
    assert not is_faster(Rate(102.0, 0.0), Rate(100.0, 0.0))
    assert rate_of([98.0, 99.0, 100.0, 101.0, 102.0]).spread == pytest.approx(0.018)
    assert rate_of([100.0, 100.0]).spread == 1.0


def e2e(synthetic: float, together: float) -> dict[str, Any]:
    """A setting of the training step, with windows of a spread of 0.5 %."""

    def mode(rate: float) -> dict[str, Any]:
        windows = [rate * (1 + n / 1000) for n in range(-5, 6)]
        return {"images_per_s": rate, "images_per_s_of_windows": windows, "settled": True}

    found = {"synthetic": synthetic, "loader": together, "together": together}
    modes = {name: mode(rate) for name, rate in found.items()}
    return {**modes, "verdict": "the loader is the bottleneck: figures"}


def recorded_day(folder: Path, device: str | None, rehearsal: bool) -> None:
    """What slices leave: a smoke matrix, tests, and two settings of the training step."""

    def row(result: Any) -> dict[str, Any]:
        return {"status": GOOD, "line": "a | b", "seconds": 1.0, "commit": "abc", "result": result}

    machine = {"device": device, "packages": {"torch": "2.11.0"}}
    cells = {"tf32": {"status": GOOD, "line": "near", "difference": 1e-4, "bound": 1e-2}}
    tests = {"t.py::test_it": {"outcome": "failed", "seconds": 2.0, "reason": "E  1 != 2"}}
    settings = {
        "bf16": e2e(100.0, 90.0),
        "bf16, NHWC, fused": e2e(180.0, 90.0),
        "bf16, graph": {"error": "x"},
    }
    for name, steps in {
        "a": {"smoke matrix": row({"cells": cells}), "kernel tests": row(tests)},
        "d": {"training steps": row(settings)},
    }.items():
        content = {"slice": name, "rehearsal": rehearsal, "machine": machine, "steps": steps}
        write_rows(folder / f"{name}.json", content)


def bench_rows(model: str, **rates: float) -> list[dict[str, Any]]:
    shared = {"model": model, "mode": "train", "precision": "tf32", "compile": False}
    sizes = {"batch_size": 8, "image_size": 224}
    return [
        {**shared, **sizes, "layout": layout, "images_per_s": rate,
         "rounds": [{"rates": [0.99 * rate, rate, 1.01 * rate]}]}
        for layout, rate in rates.items()
    ]  # fmt: skip


def test_a_report_has_tables_suggestions_and_copies_under_the_devices_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, results = tmp_path / "back", tmp_path / "results"
    folder.mkdir()
    recorded_day(folder, "NVIDIA H100 80GB", rehearsal=False)
    write_rows(folder / "kernels.json", {"rows": []})
    assert day_report.write_report(folder, results) == 0
    advice = (
        "step: bf16, NHWC, fused was 1.80x of bf16 (spread 0.9%): "
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


def test_decoding_is_judged_with_the_loader_and_all_else_without() -> None:
    rows = {
        "bf16": e2e(100.0, 50.0),
        "bf16, graph": e2e(120.0, 50.0),
        "bf16, mixed decoding": e2e(100.0, 75.0),
        "bf16, CPU decoding": e2e(130.0, 50.0),
    }
    assert list(advice_of_settings(rows)) == [
        "loader and step: bf16, mixed decoding was 1.50x of bf16 (spread 0.9%): "
        "set data.decoder=dali, data.decode_device=gpu",
        "step: bf16, graph was 1.20x of bf16 (spread 0.9%): set engine.cuda_graph=true",
    ]
    assert not list(advice_of_settings({"bf16, graph": e2e(120.0, 50.0)}))


def test_a_switch_becomes_a_default_only_if_it_slows_no_cell() -> None:
    faster = bench_rows("resnet50", contiguous=100.0, channels_last=150.0)
    same = bench_rows("convnext_tiny", contiguous=100.0, channels_last=101.0)
    slower = bench_rows("inceptionnext_tiny", contiguous=100.0, channels_last=80.0)
    assert list(advice_of_bench(faster)) == [
        "bench, train: engine.channels_last=true: set it: faster in 1 of 1 pairs of cells, slower "
        "in 0; median 1.50x, 1.50 to 1.50"
    ]
    assert list(advice_of_bench([*faster, *slower, *same])) == [
        "bench, train: engine.channels_last=true: no default: faster in 1 of 3 pairs of cells, "
        "slower in 1; median 1.01x, 0.80 to 1.50"
    ]
    assert not list(advice_of_bench(faster[:1]))


def test_a_smoke_matrix_that_failed_speaks_against_any_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = {"status": FAILED, "line": "32 of 33 good", "seconds": 1.0, "commit": "", "result": None}
    machine = {"device": None}
    content = {"rehearsal": True, "machine": machine, "steps": {"smoke matrix": step}}
    write_rows(tmp_path / "a.json", {"slice": "a", **content})
    assert day_report.write_report(tmp_path, tmp_path / "results") == 0
    assert capsys.readouterr().out.splitlines()[1] == (
        "change no default before the smoke matrix is good; it is failed: 32 of 33 good"
    )


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "has no a.json, b.json, c.json or d.json; give what came back"),
        ({"a.json": '{"steps'}, "a.json: is unreadable (JSONDecodeError); delete it or give"),
        ({"a.json": "{}"}, "a.json: has not the keys steps, rehearsal, machine; delete it or"),
        ({"bench.json": "[]"}, "bench.json: has not the keys rows; delete it or give another"),
    ],
)
def test_what_is_not_a_result_is_refused(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(Refused) as refused:
        day_report.write_report(tmp_path, tmp_path / "results")
    assert says in str(refused.value)
