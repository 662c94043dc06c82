"""One measurement, in a process of its own: `python -m ixt.bench.cell` reads JSON, prints JSON."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from ixt.bench.power import Reading, read_device
from ixt.bench.results import Cell, Protocol, Timing
from ixt.bench.steps import Impossible, Workload, build_workload, refuse_impossible
from ixt.bench.timing import time_step
from ixt.models import count_macs, count_params, create_model

Build = Callable[[str], nn.Module]


def measure(cell: Cell, protocol: Protocol, build: Build = create_model) -> dict[str, Any]:
    """Measure one cell on this machine's device.

    Args:
        cell: what to measure.
        protocol: how.
        build: gives the model of a name.

    Returns:
        `error`, or device, params, macs and `timing`, a `Timing`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        refuse_impossible(cell, device)
        model = build(cell.model)
        facts = {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "params": count_params(model),
            "macs": count_macs(model, cell.image_size),
        }
        return {**facts, "timing": _time(cell, protocol, model, device)}
    except Impossible as error:
        return {"error": str(error)}
    except torch.OutOfMemoryError:
        return {"error": "out of memory"}


def _time(cell: Cell, protocol: Protocol, model: nn.Module, device: torch.device) -> Timing:
    workload = build_workload(cell, model, device)
    weight = next(workload.model.parameters())
    before_weight = weight.detach().clone()
    readings: list[Reading | None] = []
    timed = time_step(workload.step, protocol, device, lambda: readings.append(read_device(device)))
    readings.append(read_device(device))
    cuda = device.type == "cuda"
    return Timing(
        rates=tuple(cell.batch_size / seconds for seconds in timed.seconds_per_step),
        warmup_s=timed.warmup_s,
        settled=timed.settled,
        peak_allocated_gib=torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        peak_reserved_gib=torch.cuda.max_memory_reserved() / 2**30 if cuda else None,
        peak_resident_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        images_per_joule=_per_joule(readings, timed.steps * cell.batch_size),
        throttled=tuple(sorted({text for r in readings if r for text in r.throttled})),
        checks={
            **_checks(workload),
            "weights_moved": not torch.equal(before_weight, weight.detach()),
            "readings": [asdict(reading) for reading in readings if reading],
        },
    )


def _per_joule(readings: list[Reading | None], num_images: int) -> float | None:
    first, last = readings
    if first is None or last is None or last.energy_mj <= first.energy_mj:
        return None
    return 1000 * num_images / (last.energy_mj - first.energy_mj)


def _checks(workload: Workload) -> dict[str, Any]:
    """What the settings have come to, read back from torch."""
    kernel = next(p for p in workload.model.parameters() if p.ndim == 4)
    return {
        "conv_fp32_precision": torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "matmul_fp32_precision": torch.backends.cuda.matmul.fp32_precision,
        "weight_dtype": str(kernel.dtype).removeprefix("torch."),
        "image_strides": list(workload.images.stride()),
        "kernel_channels_last": kernel.is_contiguous(memory_format=torch.channels_last),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measure the cell given as JSON and print the result as the last line."""
    given = json.loads(sys.argv[1])
    result = measure(Cell(**given["cell"]), Protocol(**given["protocol"]))
    if "timing" in result:
        result["timing"] = result["timing"].model_dump(mode="json")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
