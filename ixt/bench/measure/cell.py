"""One measurement; `python -m ixt.bench.measure.cell JSON` takes it in a process of its own."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import torch
from timm.layers import DropPath
from torch import nn

from ixt.bench.measure.sensors import HostReading, Reading, other_cores, read_device, read_host
from ixt.bench.measure.steps import Impossible, Workload, build_workload, refuse_impossible
from ixt.bench.measure.timing import time_step
from ixt.bench.results import Cell, Protocol, Timing
from ixt.errors import ModelError
from ixt.models import count_macs, count_params, create_model

Build = Callable[[Cell, Protocol], nn.Module]

_DROP_PATH_RATE = 0.1  # of the paper's recipes for its tiny and atto


def build_model(cell: Cell, protocol: Protocol) -> nn.Module:
    """The cell's model; with drop path, where it has any, if it is trained as training does."""
    if cell.mode == "train" and protocol.training_step == "full":
        with suppress(ModelError):  # older architectures of timm have no such argument
            return create_model(cell.model, drop_path_rate=_DROP_PATH_RATE)
    return create_model(cell.model)


def measure(cell: Cell, protocol: Protocol, build: Build = build_model) -> dict[str, Any]:
    """Measure one cell on this machine's device.

    Returns:
        `error`, or device, params, macs and `timing`, a `Timing`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        refuse_impossible(cell, device)
        model = build(cell, protocol)
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


class Watch:
    """Reads the device and the host around the windows, and the device within them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ends: list[Reading | None] = []
        self._host: list[HostReading] = []
        self._busy: list[Reading] = []

    def begin(self) -> None:
        """The windows follow: what the warm-up took, compilation and trials, does not count."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self.end()

    def busy(self) -> None:
        """The device has work: only now are its clocks, and why they are low, those of the work."""
        reading = read_device(self._device)
        self._busy += [reading] if reading else []

    def end(self) -> None:
        """The windows are over."""
        self._ends.append(read_device(self._device))
        self._host.append(read_host())

    def found(self, num_images: int) -> dict[str, Any]:
        """Fields of `Timing`, given the images of all windows."""
        cuda = self._device.type == "cuda"
        return {
            "peak_allocated_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
            "peak_reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if cuda else None,
            "peak_resident_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "images_per_joule": _per_joule(self._ends, num_images),
            "throttled": tuple(sorted({text for r in self._busy for text in r.throttled})),
        }

    def checks(self) -> dict[str, Any]:
        """What others did meanwhile, and the readings under load."""
        return {
            "other_cores": round(other_cores(*self._host), 3),
            "readings": [asdict(reading) for reading in self._busy],
        }


def _time(cell: Cell, protocol: Protocol, model: nn.Module, device: torch.device) -> Timing:
    workload = build_workload(cell, model, device, protocol.training_step)
    weight = next(workload.model.parameters())
    before_weight = weight.detach().clone()
    watch = Watch(device)
    timed = time_step(workload.step, protocol, device, watch.begin, watch.busy)
    watch.end()
    return Timing(
        rates=tuple(cell.batch_size / seconds for seconds in timed.seconds_per_step),
        warmup_s=timed.warmup_s,
        settled=timed.settled,
        **watch.found(timed.steps * cell.batch_size),
        checks={
            **_checks(workload),
            "weights_moved": not torch.equal(before_weight, weight.detach()),
            **watch.checks(),
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
    dropping = [m for m in workload.model.modules() if isinstance(m, DropPath)]
    return {
        "conv_fp32_precision": torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "matmul_fp32_precision": torch.backends.cuda.matmul.fp32_precision,
        "weight_dtype": str(kernel.dtype).removeprefix("torch."),
        "image_strides": list(workload.images.stride()),
        "drop_path": max((m.drop_prob for m in dropping), default=0.0),
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
