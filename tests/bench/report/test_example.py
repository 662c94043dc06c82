"""The committed benchmark of a CPU stays readable, and holds no path of its machine."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from ixt.bench.report.figures import Source
from ixt.bench.report.page import page_html
from ixt.bench.results import Report, read_report

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def example() -> Report:
    return read_report(RESULTS / "bench_cpu.json")


def test_it_holds_both_models_layouts_and_modes_without_a_failure(example: Report) -> None:
    settings = {(row.model, row.mode, row.layout) for row in example.rows}
    assert len(settings) == 8
    assert {row.model for row in example.rows} == {"inceptionnext_atto", "resnet18"}
    for row in example.rows:
        assert row.error is None and len(row.rounds) == example.protocol.rounds == 2
        rates = [rate for timing in row.rounds for rate in timing.rates]
        assert row.images_per_s == pytest.approx(statistics.median(rates))
        assert all(timing.checks["weights_moved"] is (row.mode == "train") for timing in row.rounds)


def test_its_page_can_be_built_again(example: Report) -> None:
    built = page_html([Source("bench_cpu", example)])
    committed = (RESULTS / "bench_cpu.html").read_text()
    for row in example.rows:
        assert f"{row.images_per_s:,.1f}" in built
    shown = re.compile(r'<(?:title>|div class="bar tip[^"]*" title=")([^<"]+)')
    assert shown.findall(built) == shown.findall(committed)


def test_what_stood_beside_timm_s_loop_agreed_within_three_percent() -> None:
    report = json.loads((RESULTS / "peer_bench.json").read_text())
    assert len(report["rows"]) == 4
    for row in report["rows"]:
        pairs = zip(row["ixt_images_per_s"], row["timm_images_per_s"], strict=True)
        ratio = statistics.median(own / peer for own, peer in pairs)
        assert ratio == pytest.approx(row["ratio"])
        assert ratio == pytest.approx(1.0, abs=0.03), (row["model"], row["mode"])


@pytest.mark.parametrize("name", ["bench_cpu.json", "bench_cpu.html", "peer_bench.json"])
def test_no_path_is_in_it(name: str) -> None:
    text = (RESULTS / name).read_text()
    places = "home|root|tmp|usr|opt|mnt|work|var|data"
    assert not re.search(rf"""["' =](/({places})\b|[A-Z]:\\)""", text)
