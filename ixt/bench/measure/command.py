"""What `ixt bench MODEL...` does: read its lists, run the matrix, keep what is measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch

from ixt.bench.measure.ceilings import find_ceilings
from ixt.bench.measure.matrix import OUT_OF_MEMORY, expand, largest_batch, run_cell, run_matrix
from ixt.bench.results import (
    Cell,
    Layout,
    Mode,
    Precision,
    Protocol,
    Report,
    TrainingStep,
    read_report,
    write_report,
)
from ixt.bench.roofline import find_device
from ixt.errors import EngineError, Interrupted
from ixt.images.progress_lines import Pace
from ixt.models import paper_models
from ixt.monitor.status_line import Status, StatusLine, terminal

_QUICK = {"seconds": 4.0, "rounds": 1}
_SWITCH = {"off": False, "on": True}


@dataclass(frozen=True)
class Request:
    """The command line, as given: lists are separated by commas."""

    models: Sequence[str] = ()
    paper: bool = False
    """All models of the paper's table."""
    modes: str = "train,infer"
    layouts: str = "contiguous,channels_last"
    precisions: str | None = None
    """None takes the paper's: tf32 on a CUDA device, fp32 elsewhere."""
    compiles: str = "off"
    batch_sizes: str = "128"
    """Numbers, or LOW..HIGH for LOW, 2 LOW, 4 LOW up to HIGH."""
    image_size: int | None = None
    fit: bool = False
    """Take the largest batch that fits instead."""
    device: str | None = None
    """Name or YAML file with the device's peaks; None goes by the driver's name."""
    protocol: Protocol = field(default_factory=Protocol)
    results: Path | None = None
    resume: bool = False


def chosen_protocol(
    quick: bool, seconds: float | None, rounds: int | None, training_step: TrainingStep
) -> Protocol:
    """The protocol of the command line; None takes the usual one, or the quick one.

    Raises:
        EngineError: quick is given with what it stands for.
    """
    given = {"--seconds": seconds, "--rounds": rounds}
    named = [option for option, value in given.items() if value is not None]
    if quick and named:
        raise EngineError(
            f"--quick: measures one round of {_QUICK['seconds']:g} seconds; leave it out, or "
            f"{' and '.join(named)}"
        )
    own = {option.removeprefix("--"): given[option] for option in named}
    return Protocol.model_validate({**(_QUICK if quick else own), "training_step": training_step})


def bench(request: Request) -> Report:
    """Measure what is asked for; a results file is written after every measurement.

    Raises:
        EngineError: a list holds an unknown word, the device is not known, there is nothing to
            measure, or the results file is another kind of file.
        ModelError: a model is unknown.
        Interrupted: Ctrl-C; what was measured is in the results file.
    """
    cells = _cells(request)
    done = _done(request)
    if request.device is not None:
        find_device(request.device)  # refuses it before anything is measured
    if request.fit:
        cells = _fit(cells, request.protocol)
    report = Report(protocol=request.protocol, machine={}, rows=())
    ceilings = (done and done.ceilings) or find_ceilings([cell.precision for cell in cells])
    total, console = len(cells) * request.protocol.rounds, terminal()
    status = Status(0, total, None, ["starting"])
    pace: Pace | None = None
    with nullcontext() if console is None else StatusLine(console, lambda: status):
        try:
            for cell, count, report in run_matrix(cells, request.protocol, done, request.device):
                pace = pace or Pace(count)  # what was measured before took no time
                per_s = pace.per_s(count)
                left_s = (total - count) / per_s if per_s else None
                status = Status(count, total, left_s, [cell.name, f"{count} of {total}"])
                report = report.model_copy(update={"ceilings": ceilings})
                if request.results is not None:
                    write_report(report, request.results)
        except KeyboardInterrupt:
            raise Interrupted(_left(request, report), 2) from None
    return report


def _left(request: Request, report: Report) -> str:
    measured = f"stopped with {len(report.rows)} cells measured"
    if request.results is None:
        return f"{measured} and not kept (--results FILE keeps them)"
    return f"{measured}, kept in {request.results}; continue with --resume"


def _cells(request: Request) -> list[Cell]:
    if request.paper and request.models:
        raise EngineError(
            f"--paper: measures all models of the paper's table; leave it out, or "
            f"{' '.join(request.models)}"
        )
    models = [row.name for row in paper_models()] if request.paper else request.models
    if not models:
        raise EngineError("nothing to measure; name models, or give --paper")
    default = "tf32" if torch.cuda.is_available() else "fp32"
    return expand(
        list(dict.fromkeys(models)),
        request.image_size,
        mode=words("--mode", request.modes, get_args(Mode)),
        precision=words("--precision", request.precisions or default, get_args(Precision)),
        compile=[_SWITCH[w] for w in words("--compile", request.compiles, tuple(_SWITCH))],
        batch_size=integers("--batch-size", request.batch_sizes),
        # Side by side in the table, and measured one after the other.
        layout=words("--layout", request.layouts, get_args(Layout)),
    )


def _done(request: Request) -> Report | None:
    if not request.resume:
        _refuse_other_file(request.results)
        return None
    if request.results is None or not request.results.exists():
        raise EngineError("--resume: needs --results FILE of the benchmark to continue")
    return read_report(request.results)


def _refuse_other_file(results: Path | None) -> None:
    """Let nothing but an earlier benchmark of this version be replaced."""
    if results is None or not results.exists():
        return
    try:
        read_report(results)
    except EngineError as error:
        raise EngineError(
            f"{results}: holds no results of this `ixt bench`, so it is not replaced; "
            "give another name"
        ) from error


def _fit(cells: list[Cell], protocol: Protocol) -> list[Cell]:
    """Each setting once, with the largest batch that fits in a short measurement."""
    if not torch.cuda.is_available():
        raise EngineError("--fit: needs a CUDA device; give --batch-size here")
    short = protocol.model_copy(update={"seconds": 0.3, "windows": 3, "max_warmup": 1.0})

    def fits(cell: Cell) -> bool:
        return not str(run_cell(cell, short).get("error", "")).startswith(OUT_OF_MEMORY)

    settings = dict.fromkeys(cell.model_copy(update={"batch_size": 8}) for cell in cells)
    found = [largest_batch(cell, fits) for cell in settings]
    return [cell for cell in found if cell is not None]


def words(option: str, text: str, allowed: tuple[str, ...]) -> list[Any]:
    """The words of a list with commas, each once.

    Raises:
        EngineError: there is none, or one is not allowed.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    wrong = [word for word in words if word not in allowed]
    if wrong or not words:
        found = wrong[0] if wrong else "nothing"
        raise EngineError(f"{option}: {found}: give one or more of {', '.join(allowed)}")
    return list(dict.fromkeys(words))


def integers(option: str, text: str) -> list[int]:
    """The whole numbers from 1 on of a list with commas, each once; 32..128 is 32, 64, 128.

    Raises:
        EngineError: something else is in it.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", part)
        low, high = (int(g) for g in (match[1], match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high:
            raise EngineError(
                f"{option}: {part!r}: give whole numbers from 1 on, as 1,2,4, or a range such as "
                "32..512 that doubles"
            )
        while low <= high:
            found.append(low)
            low *= 2
    return list(dict.fromkeys(found))
