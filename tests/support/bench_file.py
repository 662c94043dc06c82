"""A results file of `ixt bench` as a GPU might have written it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ixt.bench.results import Protocol, Report, Row, write_report


def bench_file(path: Path, **changes: Any) -> Path:
    """Results of batches 64 and 256, both layouts, eager."""
    small = Row(
        model="inceptionnext_tiny",
        mode="train",
        layout="contiguous",
        precision="amp-bf16",
        compile=False,
        batch_size=64,
        image_size=224,
        device="NVIDIA H100 80GB HBM3",
        images_per_s=2500.0,
    )
    large = small.model_copy(update={"batch_size": 256, "images_per_s": 3000.0})
    nhwc = small.model_copy(update={"layout": "channels_last", "images_per_s": 3500.0})
    infer = small.model_copy(update={"mode": "infer", "images_per_s": 9000.0})
    failed = small.model_copy(update={"error": "out of memory", "images_per_s": None})
    rows = tuple(row.model_copy(update=changes) for row in (small, large, nhwc, infer))
    write_report(Report(protocol=Protocol(), machine={}, rows=(*rows, failed)), path)
    return path
