from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ixt.bench.measure import matrix
from ixt.bench.measure.matrix import add_round, expand, largest_batch, run_matrix
from ixt.bench.results import Cell, Protocol, Report, Timing, read_report, write_report
from ixt.errors import EngineError, ModelError

PROTOCOL = Protocol(seconds=1, windows=3, rounds=2)


def timing(*rates: float, **other: Any) -> Timing:
    known: dict[str, Any] = {
        "warmup_s": 1.0,
        "settled": True,
        "peak_allocated_gib": None,
        "peak_reserved_gib": None,
        "peak_resident_gib": 1.0,
        "images_per_joule": None,
        "throttled": (),
        "checks": {},
    }
    return Timing(rates=rates, **{**known, **other})


LAYOUTS = ["contiguous", "channels_last"]


def result(*rates: float) -> dict[str, Any]:
    facts = {"device": "cpu", "params": 1, "macs": 2}
    return {**facts, "timing": timing(*rates).model_dump()}


@pytest.fixture
def cells() -> list[Cell]:
    one: dict[str, list[Any]] = {
        "mode": ["train"],
        "precision": ["fp32"],
        "compile": [False],
        "batch_size": [4],
    }
    return expand(["resnet18"], 8, **one, layout=LAYOUTS)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """Cells in the order of their measurement, which is replaced."""
    order: list[Cell] = []

    def run(cell: Cell, protocol: Protocol) -> dict[str, Any]:
        order.append(cell)
        return result(1.0, 2.0, 3.0)

    monkeypatch.setattr(matrix, "run_cell", run)
    return order


def test_the_matrix_is_every_combination_with_layouts_side_by_side() -> None:
    found = expand(
        ["resnet18", "inceptionnext_base_384"],
        mode=["train", "infer"],
        precision=["fp32", "bf16"],
        compile=[False, True],
        batch_size=[32, 64],
        layout=LAYOUTS,
    )
    assert len(found) == len(set(found)) == 2 * 2 * 2 * 2 * 2 * 2
    assert [cell.layout for cell in found[:4]] == ["contiguous", "channels_last"] * 2
    assert {cell.image_size for cell in found} == {224, 384}


def test_an_unknown_model_is_named_before_anything_is_measured() -> None:
    with pytest.raises(ModelError, match="resnet18"):
        expand(["resnet_18"])


def test_rounds_interleave_the_cells(cells: list[Cell], measured: list[Cell]) -> None:
    *_, (_, done, report) = run_matrix(cells, PROTOCOL)
    assert [cell.layout for cell in measured] == ["contiguous", "channels_last"] * 2
    assert done == 4
    assert [len(row.rounds) for row in report.rows] == [2, 2]


def test_a_stopped_matrix_continues_where_it_was(cells: list[Cell], measured: list[Cell]) -> None:
    steps = run_matrix(cells, PROTOCOL)
    for _ in range(3):
        _, done, report = next(steps)
    assert done == 2
    *_, (_, _, finished) = run_matrix(cells, PROTOCOL, report)
    assert len(measured) == 4
    assert [len(row.rounds) for row in finished.rows] == [2, 2]


def test_another_protocol_does_not_continue(cells: list[Cell], measured: list[Cell]) -> None:
    *_, (_, _, report) = run_matrix(cells, PROTOCOL)
    with pytest.raises(EngineError, match="another --results"):
        next(run_matrix(cells, Protocol(seconds=2), report))


def test_another_machine_does_not_continue(cells: list[Cell], measured: list[Cell]) -> None:
    *_, (_, _, report) = run_matrix(cells, PROTOCOL)
    packages = {**report.machine["packages"], "torch": "1.13"}
    elsewhere = report.model_copy(update={"machine": {**report.machine, "packages": packages}})
    with pytest.raises(EngineError, match=r"are of another torch \(1.13; .*another --results"):
        next(run_matrix(cells, PROTOCOL, elsewhere))


def test_figures_are_over_the_windows_of_all_rounds(cells: list[Cell]) -> None:
    row = add_round(None, cells[0], result(1.0, 2.0, 3.0))
    row = add_round(row, cells[0], result(4.0, 5.0, 6.0))
    assert row.images_per_s == 3.5
    assert row.p5_images_per_s == pytest.approx(1.25)
    assert row.p95_images_per_s == pytest.approx(5.75)
    assert row.ms_per_step == pytest.approx(1000 * 4 / 3.5)


def test_an_error_is_a_result_and_is_not_tried_again(
    cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def run(cell: Cell, protocol: Protocol) -> dict[str, Any]:
        tried.append(cell)
        failing = cell.layout == "contiguous"
        return {"error": "out of memory"} if failing else result(1.0, 2.0, 3.0)

    monkeypatch.setattr(matrix, "run_cell", run)
    *_, (_, _, report) = run_matrix(cells, PROTOCOL)
    assert [row.error for row in report.rows] == ["out of memory", None]
    assert len(tried) == 3


@pytest.mark.parametrize(("limit", "found"), [(7, None), (8, 8), (100, 96), (1000, 1000)])
def test_the_largest_batch_is_found(cells: list[Cell], limit: int, found: int | None) -> None:
    best = largest_batch(cells[0], lambda cell: cell.batch_size <= limit)
    assert (best.batch_size if best else None) == found


def test_no_two_measurements_share_a_process(
    cells: list[Cell], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text('#!/bin/sh\necho "{\\"error\\": \\"$$\\"}"\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    *_, (_, _, report) = run_matrix(cells, PROTOCOL)
    assert len({row.error for row in report.rows} | {str(os.getpid())}) == 1 + len(cells)


def test_a_cell_s_own_process_says_what_it_measured(cells: list[Cell]) -> None:
    found = matrix.run_cell(cells[0], Protocol(seconds=0.1, windows=3, max_warmup=1.0))
    assert found["params"] == 11_689_512
    assert Timing(**found["timing"]).checks["weights_moved"] is True


def test_a_process_that_dies_gives_its_last_line(
    cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    assert matrix.run_cell(cells[0], PROTOCOL) == {"error": "exit status 1"}


def test_a_results_file_reads_back(cells: list[Cell], tmp_path: Any) -> None:
    rows = tuple(add_round(None, cell, result(1.0, 2.0, 3.0)) for cell in cells)
    report = Report(protocol=PROTOCOL, machine={"cpu": "x"}, rows=rows)
    write_report(report, tmp_path / "deep" / "b.json")
    assert read_report(tmp_path / "deep" / "b.json") == report
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["b.json"]


@pytest.mark.parametrize("text", ["", "{}", '{"format": 1, "rows": []}'])
def test_a_foreign_file_is_refused_in_one_line(tmp_path: Any, text: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(EngineError, match="not a results file") as caught:
        read_report(tmp_path / "b.json")
    assert "\n" not in str(caught.value)
