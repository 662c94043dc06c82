"""What a benchmark holds: cells, the protocol they were measured by, rows. Its JSON is versioned.

`Report.model_json_schema()` documents every field of a results file.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ixt.errors import EngineError
from ixt.files import read_regular, reason, replace_text

FORMAT: Literal[3] = 3

Mode = Literal["train", "infer"]
Layout = Literal["contiguous", "channels_last"]
Precision = Literal["fp32", "tf32", "amp-bf16", "amp-fp16", "bf16"]
TrainingStep = Literal["full", "plain"]
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

LAYOUTS = {"contiguous": "NCHW", "channels_last": "NHWC"}
"""Short names of memory orders."""


class Part(BaseModel):
    """A frozen piece of a file; the texts under its fields are in its JSON schema."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


class Cell(Part):
    """One setting to measure, in a process of its own."""

    model: str
    """A name of timm or of the paper."""
    mode: Mode
    """train: the whole optimizer step; infer: the forward pass in inference mode."""
    layout: Layout
    """Memory order of images and weights: NCHW or NHWC."""
    precision: Precision
    """fp32: IEEE everywhere. tf32: TF32 in convolutions and linear layers, the paper's "full
    precision". amp-bf16, amp-fp16: autocast over fp32 weights. bf16: weights and activations."""
    compile: bool
    """Whether torch.compile compiles the model."""
    batch_size: int = Field(ge=1)
    """Images per step."""
    image_size: int = Field(ge=1)
    """Side of the square image, in pixels."""

    @property
    def name(self) -> str:
        """A short name for people."""
        compiled = " compiled" if self.compile else ""
        return (
            f"{self.model} {self.mode} {self.layout} {self.precision}{compiled} "
            f"batch {self.batch_size}"
        )

    @property
    def setting(self) -> str:
        """Precision, layout and compilation in a few words."""
        return f"{self.precision} {LAYOUTS[self.layout]}" + (" compiled" if self.compile else "")


class Protocol(Part):
    """How a cell is timed."""

    seconds: float = Field(default=20.0, gt=0.0)
    """Time measured per cell and round, after the warm-up."""
    windows: int = Field(default=10, ge=3)
    """Windows that this time is cut into; each gives one rate."""
    rounds: int = Field(default=2, ge=1)
    """Times that the whole matrix is gone through, each cell in a fresh process each time."""
    agreement: float = Field(default=0.01, gt=0.0)
    """The warm-up ends when three windows in a row lie within this share of each other."""
    max_warmup: float = Field(default=3.0, ge=1.0)
    """The warm-up ends, unsettled, after this many times `seconds`."""
    training_step: TrainingStep = "full"
    """full: as training does it, with drop path, clipped gradients, AdamW and EMA. plain: forward,
    loss, backward and SGD alone, as the paper's and timm's benchmark scripts time it."""


class Timing(Part):
    """What one process measured."""

    rates: tuple[float, ...]
    """Images per second of each window."""
    warmup_s: float
    """Length of the warm-up, compilation included."""
    settled: bool
    """Whether the warm-up ended by agreement."""
    peak_allocated_gib: float | None
    """Most memory that tensors took on a CUDA device in the windows; None on a CPU."""
    peak_reserved_gib: float | None
    """Most memory that torch held on a CUDA device in the windows; None on a CPU."""
    peak_resident_gib: float
    """Largest resident set of the process."""
    images_per_joule: float | None
    """Images per joule by the device's energy counter; None where it has none."""
    throttled: tuple[str, ...]
    """Reasons for which the device had lowered its clocks, read once in every window under load."""
    checks: dict[str, Any]
    """What was read back from inside: flags, dtypes, strides, whether the weights moved."""


class Row(Cell):
    """A cell's result. Without `images_per_s` it has an `error` that says why."""

    error: str | None = None
    """Why there is no figure, in one line."""
    device: str | None = None
    """The device's name."""
    params: int | None = None
    """Parameters."""
    macs: int | None = None
    """Multiply-accumulates of one image's forward pass."""
    images_per_s: float | None = None
    """Median over the windows of all rounds."""
    p5_images_per_s: float | None = None
    """5th percentile of the windows."""
    p95_images_per_s: float | None = None
    """95th percentile of the windows."""
    ms_per_step: float | None = None
    """Milliseconds per step at the median rate."""
    mfu: float | None = None
    """Model FLOPs utilisation, a fraction; None where the device's peak is not known."""
    of_memory_floor: float | None = None
    """Fraction of the images per second that memory traffic alone allows."""
    of_limit: float | None = None
    """Fraction of the roofline's tight bound."""
    rounds: tuple[Timing, ...] = ()
    """What each process measured."""

    @property
    def cell(self) -> Cell:
        """The setting alone."""
        return Cell(**{name: getattr(self, name) for name in Cell.model_fields})

    @property
    def settled(self) -> bool:
        """Whether every round's warm-up settled."""
        return all(timing.settled for timing in self.rounds)

    @property
    def other_cores(self) -> float:
        """Cores that other processes kept busy, in the round in which it was most."""
        return max((t.checks.get("other_cores", 0.0) for t in self.rounds), default=0.0)

    @property
    def throttled(self) -> bool:
        """Whether the device lowered its clocks in any round."""
        return any(timing.throttled for timing in self.rounds)

    @property
    def spread(self) -> float | None:
        """Half the distance from the 5th to the 95th percentile, as a share of the median."""
        rate, low, high = self.images_per_s, self.p5_images_per_s, self.p95_images_per_s
        return (high - low) / 2 / rate if rate and low is not None and high is not None else None

    @property
    def peak_gib(self) -> float | None:
        """Most memory that a round took: the device's where it has one, else the process's."""
        taken = (timing.peak_allocated_gib or timing.peak_resident_gib for timing in self.rounds)
        return max(taken, default=None)

    @property
    def images_per_joule(self) -> float | None:
        """Median over the rounds; None where the device does not measure its energy."""
        known = [t.images_per_joule for t in self.rounds if t.images_per_joule is not None]
        return statistics.median(known) if known else None


class Ceilings(Part):
    """What a device was seen to reach at best, however little of its published peaks that is."""

    copy_gb_per_s: float = Field(gt=0.0)
    """A tensor copied on the device, read and write counted, in 1e9 bytes/s."""
    matmul_tflops: dict[Precision, float]
    """A large matrix product, by precision, in 1e12 FLOP/s."""


class Report(Part):
    """A results file."""

    format: Literal[3] = FORMAT
    """Version of this schema."""
    protocol: Protocol
    machine: dict[str, Any]
    """Versions, hardware and commit, as `ixt.distributed.machine.describe_machine` gives them."""
    ceilings: Ceilings | None = None
    """Measured before the first row; None where that failed."""
    rows: tuple[Row, ...]

    @property
    def timings(self) -> list[Timing]:
        """What every process measured."""
        return [timing for row in self.rows for timing in row.rounds]


def group_by(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by key, in the order of their first."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def read_report(file: Path) -> Report:
    """Read a results file.

    Raises:
        EngineError: it is missing, or not a results file of this version.
    """
    try:
        return Report.model_validate_json(read_regular(file))
    except OSError as error:
        raise EngineError(f"{file}: cannot be read ({reason(error)})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EngineError(
            f"{file}: not a results file of `ixt bench` in format {FORMAT}: "
            f"{where + ': ' if where else ''}{first['msg'].lower()}; measure again"
        ) from error


def write_report(report: Report, file: Path) -> None:
    """Write a results file whole: a kill leaves the former one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, report.model_dump_json(indent=1) + "\n")
