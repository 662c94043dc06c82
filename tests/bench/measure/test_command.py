from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ixt.bench.measure import command
from ixt.bench.measure.command import Request, bench
from ixt.bench.report.notes import conditions
from ixt.bench.results import Ceilings, Cell, Protocol, read_report
from ixt.errors import EngineError, Interrupted

PROTOCOL = Protocol(seconds=1, windows=3, rounds=1)
CEILINGS = Ceilings(copy_gb_per_s=10.0, matmul_tflops={"fp32": 0.1})


@pytest.fixture(autouse=True)
def ceilings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Precisions whose ceilings were asked for, which is replaced."""
    asked: list[str] = []

    def find(precisions: list[str]) -> Ceilings:
        asked.extend(precisions)
        return CEILINGS

    monkeypatch.setattr(command, "find_ceilings", find)
    return asked


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that a benchmark would command."""
    cells: list[Cell] = []

    def run(given: list[Cell], protocol: Protocol, done: object, device: object) -> object:
        cells.extend(given)
        return iter(())

    monkeypatch.setattr(command, "run_matrix", run)
    return cells


def test_lists_are_read_and_ranges_double(seen: list[Cell]) -> None:
    bench(Request(["resnet18"], modes="infer", layouts="contiguous", batch_sizes="3,32..200"))
    assert [cell.batch_size for cell in seen] == [3, 32, 64, 128]


def test_the_paper_is_fourteen_models_in_the_paper_s_precision(seen: list[Cell]) -> None:
    bench(Request(paper=True))
    assert len({cell.model for cell in seen}) == 14
    assert len(seen) == 14 * 2 * 2
    expected = "tf32" if torch.cuda.is_available() else "fp32"
    assert {cell.precision for cell in seen} == {expected}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precisions": "fp64"}, "--precision: fp64: give one or more of fp32, tf32"),
        ({"layouts": "nhwc"}, "--layout: nhwc: give one or more of contiguous, channels_last"),
        ({"modes": " , "}, "--mode: nothing: give one or more of train, infer"),
        ({"compiles": "yes"}, "--compile: yes: give one or more of off, on"),
        ({"batch_sizes": "8..4"}, "--batch-size: '8..4': give whole numbers"),
        ({"batch_sizes": "big"}, "--batch-size: 'big': give whole numbers"),
        ({"models": []}, "nothing to measure"),
        ({"paper": True}, "--paper: measures all models of the paper's table; leave it out"),
        ({"resume": True}, "--resume: needs --results FILE"),
    ],
)
def test_wrong_words_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(EngineError, match=message.replace(".", r"\.")):
        bench(Request(**{"models": ["resnet18"], **wrong}))  # type: ignore[arg-type]


def test_another_kind_of_file_is_not_replaced(seen: list[Cell], tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(EngineError, match=r"holds no results .* give another name"):
        bench(Request(["resnet18"], results=notes))
    assert notes.read_text() == "mine"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device runs out of memory")
def test_fitting_needs_a_device_that_runs_out_of_memory() -> None:
    with pytest.raises(EngineError, match="--fit: needs a CUDA device"):
        bench(Request(["resnet18"], fit=True))


def test_ctrl_c_keeps_what_was_measured_and_resume_takes_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ceilings: list[str]
) -> None:
    def interrupted(cell: Cell, protocol: Protocol) -> dict[str, object]:
        if cell.layout == "channels_last":
            raise KeyboardInterrupt
        return {"error": "out of memory"}

    monkeypatch.setattr("ixt.bench.measure.matrix.run_cell", interrupted)
    results = tmp_path / "b.json"
    request = Request(["resnet18"], modes="infer", protocol=PROTOCOL, results=results)
    with pytest.raises(Interrupted, match="1 cells measured, kept in"):
        bench(request)
    assert [row.error for row in read_report(results).rows] == ["out of memory"]
    assert read_report(results).ceilings == CEILINGS

    rest: list[str] = []

    def measured(cell: Cell, protocol: Protocol) -> dict[str, object]:
        rest.append(cell.layout)
        return {"error": "out of memory"}

    monkeypatch.setattr("ixt.bench.measure.matrix.run_cell", measured)
    report = bench(replace(request, resume=True))
    assert rest == ["channels_last"]
    assert [row.layout for row in report.rows] == ["contiguous", "channels_last"]
    assert (report.ceilings, len(ceilings)) == (CEILINGS, 2)  # not measured again


def test_an_unknown_device_is_refused_before_anything_is_measured(ceilings: list[str]) -> None:
    with pytest.raises(EngineError, match="h1000: not a known device"):
        bench(Request(["resnet18"], device="h1000"))
    assert ceilings == []


def test_a_quick_paper_that_was_stopped_measures_each_cell_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order: list[Cell] = []

    def measured(cell: Cell, protocol: Protocol) -> dict[str, Any]:
        assert (protocol.seconds, protocol.rounds) == (4.0, 1)
        if len(order) == 20:
            raise KeyboardInterrupt
        order.append(cell)
        rates = (90.0, 100.0, 110.0)
        timing = {"rates": rates, "warmup_s": 1.0, "settled": True, "peak_allocated_gib": None,
                  "peak_reserved_gib": None, "peak_resident_gib": 1.0, "images_per_joule": None,
                  "throttled": (), "checks": {}}  # fmt: skip
        return {"device": "cpu", "params": 1, "macs": 2, "timing": timing}

    monkeypatch.setattr("ixt.bench.measure.matrix.run_cell", measured)
    results = tmp_path / "paper.json"
    quick = command.chosen_protocol(True, None, None, "full")
    request = Request(paper=True, protocol=quick, results=results)
    with pytest.raises(Interrupted, match="20 cells measured"):
        bench(request)
    order.append(order[0])  # the next call may go on
    report = bench(replace(request, resume=True))
    assert len(report.rows) == len(set(order)) == 56
    assert len(order) == 57
    assert all(row.spread == pytest.approx(0.09) for row in report.rows)
    assert "one round: the spread is of one process" in " ".join(conditions(report))
    with pytest.raises(EngineError, match="give the same options, or another --results"):
        bench(replace(request, resume=True, protocol=Protocol()))


def test_quick_stands_for_a_time_and_a_number_of_rounds() -> None:
    with pytest.raises(EngineError, match=r"--quick: measures one round of 4 seconds; .* --rounds"):
        command.chosen_protocol(True, None, 3, "full")
    assert command.chosen_protocol(False, None, None, "plain") == Protocol(training_step="plain")
    assert command.chosen_protocol(False, 5.0, 3, "full") == Protocol(seconds=5.0, rounds=3)
