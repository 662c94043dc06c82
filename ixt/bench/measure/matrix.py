"""The cells of a benchmark and the order in which they are measured.

Every cell of every round runs in a fresh process, and the whole matrix is gone through once per
round (A B A B), so a drift of the machine meets all cells alike.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from ixt.bench.differences import refuse_another_machine
from ixt.bench.results import Cell, Protocol, Report, Row, Timing
from ixt.bench.roofline.limits import shares
from ixt.distributed.machine import describe_machine
from ixt.errors import EngineError
from ixt.models import training_image_size

OUT_OF_MEMORY = "out of memory"


def expand(
    models: Sequence[str], image_size: int | None = None, **values: Sequence[Any]
) -> list[Cell]:
    """All combinations.

    `image_size` None takes the size that each model is trained on; the last of `values` varies
    fastest.

    Raises:
        ModelError: a model is unknown.
    """
    sizes = {name: image_size or training_image_size(name) for name in models}
    return [
        Cell(model=model, image_size=sizes[model], **dict(zip(values, chosen, strict=True)))
        for model, *chosen in product(models, *values.values())
    ]


def run_matrix(
    cells: Sequence[Cell],
    protocol: Protocol,
    done: Report | None = None,
    device: str | None = None,
) -> Iterator[tuple[Cell, int, Report]]:
    """Measure cells round by round.

    Before each measurement and last it yields the cell to measure, how many measurements there are
    already, and the report so far.

    Whoever stops consuming keeps what was yielded; given back as `done`, it is gone on with.

    `device` is a name or YAML file with its peaks; None goes by the driver's name.

    Raises:
        EngineError: `done` was measured by another protocol, or on another machine.
    """
    if done is not None and done.protocol != protocol:
        raise EngineError(
            f"the results to continue were measured by {done.protocol!r}, and {protocol!r} is "
            "asked for; give the same options, or another --results"
        )
    rows = {row.cell: row for row in done.rows} if done else {}
    machine = describe_machine()
    if done is not None:
        refuse_another_machine(done.machine, machine)
    count = 0
    for number in range(protocol.rounds):
        for cell in cells:
            row = rows.get(cell)
            if row is None or (row.error is None and len(row.rounds) <= number):
                yield cell, count, _report(protocol, machine, rows)
                rows[cell] = add_round(row, cell, run_cell(cell, protocol), device)
            count += 1
    yield cells[-1], count, _report(protocol, machine, rows)


def _report(protocol: Protocol, machine: dict[str, Any], rows: dict[Cell, Row]) -> Report:
    return Report(protocol=protocol, machine=machine, rows=tuple(rows.values()))


def add_round(
    row: Row | None, cell: Cell, result: dict[str, Any], device: str | None = None
) -> Row:
    """A cell's row with one more measurement; percentiles are over the windows of all rounds."""
    if "error" in result:
        return Row(**cell.model_dump(), error=result["error"])
    timings = (*(row.rounds if row else ()), Timing(**result["timing"]))
    rates = [rate for timing in timings for rate in timing.rates]
    median = statistics.median(rates)
    low, high = np.percentile(rates, [5, 95]).tolist()
    return Row(
        **cell.model_dump(),
        device=result["device"],
        params=result["params"],
        macs=result["macs"],
        images_per_s=median,
        p5_images_per_s=low,
        p95_images_per_s=high,
        ms_per_step=1000 * cell.batch_size / median,
        **shares(cell, device or result["device"], median),
        rounds=timings,
    )


def run_cell(cell: Cell, protocol: Protocol) -> dict[str, Any]:
    """Measure a cell in a fresh process; what goes wrong there becomes an `error`."""
    given = {"cell": cell.model_dump(), "protocol": protocol.model_dump()}
    command = [sys.executable, "-m", "ixt.bench.measure.cell", json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        killed = done.returncode == -9
        return {"error": f"{OUT_OF_MEMORY} (killed)" if killed else lines[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def largest_batch(cell: Cell, fits: Callable[[Cell], bool], limit: int = 2**16) -> Cell | None:
    """The cell with the largest batch, a multiple of 8, that fits; None if 8 does not.

    `fits` must be monotonous in the batch; the cell's own batch size is ignored.
    """

    def at(size: int) -> Cell:
        return cell.model_copy(update={"batch_size": size})

    low, high = 0, 8
    while high <= limit and fits(at(high)):
        low, high = high, 2 * high
    while high - low > 8:
        middle = (low + high) // 16 * 8
        low, high = (middle, high) if fits(at(middle)) else (low, middle)
    return at(low) if low else None
