"""Results as a benchmark would write them, with chosen rates."""

from __future__ import annotations

from typing import Any

from ixt.bench.measure.matrix import add_round
from ixt.bench.results import Cell, Protocol, Report, Row, Timing

MACHINE = {
    "devices": [],
    "cpu": "A <CPU> & more",
    "cpu_cores": 2,
    "memory_gib": 8.0,
    "packages": {"torch": "2.14.1"},
    "python": "3.11.2",
    "platform": "Linux",
    "git_commit": "abc",
    "command": ["ixt", "bench"],
}


def timing(*rates: float, **changes: Any) -> Timing:
    known = {
        "warmup_s": 1.0,
        "settled": True,
        "peak_allocated_gib": None,
        "peak_reserved_gib": None,
        "peak_resident_gib": 1.25,
        "images_per_joule": None,
        "throttled": (),
        "checks": {"threads": 2},
    }
    return Timing(rates=rates, **{**known, **changes})


def row(rate: float | None, device: str = "cpu", settled: bool = True, **changes: Any) -> Row:
    """Two rounds about a rate; without a rate, a row that ran out of memory."""
    setting = {
        "model": "inceptionnext_atto",
        "mode": "train",
        "layout": "contiguous",
        "precision": "fp32",
        "compile": False,
        "batch_size": 4,
        "image_size": 224,
    }
    cell = Cell(**{**setting, **changes})
    if rate is None:
        return add_round(None, cell, {"error": "out of memory"})
    found = None
    for _ in range(2):
        measured = timing(0.99 * rate, rate, 1.01 * rate, settled=settled).model_dump()
        facts = {"device": device, "params": 4_156_520, "macs": 502_000_000}
        found = add_round(found, cell, {**facts, "timing": measured})
    assert found is not None
    return found


def report(*rows: Row, **machine: Any) -> Report:
    return Report(protocol=Protocol(rounds=2), machine={**MACHINE, **machine}, rows=rows)


def small_report() -> Report:
    """Two models, two layouts, two batch sizes, one failure, one unsettled row."""
    return report(
        row(10.0),
        row(12.0, layout="channels_last"),
        row(11.0, batch_size=8),
        row(14.0, batch_size=8, layout="channels_last"),
        row(40.0, mode="infer", settled=False),
        row(None, mode="infer", layout="channels_last"),
        row(5.0, model="resnet18"),
        row(6.0, model="mobilenetv4_conv_small"),
    )
