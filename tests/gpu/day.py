"""Everything that only a GPU can show, in four slices that each end within ten minutes.

    python tests/gpu/day.py --slice a --out DIR          # a correctness, b kernels and steps,
                                                         # c the paper's models, d data
    python tests/gpu/day.py --slice a --out DIR --again "smoke matrix"
    python tests/gpu/day.py --slice a --out DIR --rehearse
    python tests/gpu/day.py report DIR

Each step is a process with a budget of its own; its row is in DIR before the next one begins, and
what fails, hangs or is missing is a line, after which the others run. The same command again runs
what has no good row yet; slice c needs two calls. DIR gets at most eight files of 16 MiB: a.json to
d.json, kernels.json, bench.json, paper.json, and day.log with the end of every step's output. On
another machine, put what came back into DIR first. bench.json and paper.json are always continued;
delete them to measure their cells again.

--rehearse takes the same way on a CPU, with small models and Triton's interpreter (that of Triton
3.6 needs NumPy below 2.4, its compiler does not). What needs a GPU is then reported as such. A
folder of a rehearsal is refused for a real slice, and so is one of another device.

A checkout is enough: nothing is installed, and PYTHONPATH is set here. Beside torch, torchvision,
triton, timm, accelerate, typer, rich, numpy, scipy, pillow, safetensors, psutil, jinja2, pytest and
pytest-xdist, a bare machine often lacks what follows; wheels can be brought along and unpacked into
a folder of PYTHONPATH. A slice begins with the list of what is missing and what that costs.

needed by ixt     pydantic, pydantic-core (for this Python), annotated-types, typing-inspection,
                  ruamel.yaml, nvidia-ml-py
ZeRO              deepspeed, hjson, msgpack, ninja, einops, py-cpuinfo, tqdm, transformers
data, DALI        nvidia-dali-cuda130 (190 MiB), nvidia-nvimgcodec-cu13, nvidia-libnvcomp-cu13,
                  nvtx, astunparse, gast, libcst, makefun, optree, six
photographs       scikit-learn, scikit-image
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from day_packages import ROOT, missing, package_lines
from day_slices import REHEARSAL_FACTOR, Place, search_path, steps_of
from step_runner import (
    NOT_RUN,
    SLICE_KEYS,
    SLICE_S,
    Refused,
    Row,
    Step,
    Stop,
    check_writable,
    over_limits,
    read_results,
    run_steps,
    stoppable,
    write_rows,
)

FORMAT = 1


def open_rows(file: Path, rehearse: bool, machine: dict[str, Any]) -> dict[str, Any]:
    """The rows of an earlier call, or none.

    Raises:
        Refused: they are of a rehearsal and this is none, or of another device.
    """
    if not file.exists():
        return {}
    former = read_results(file, *SLICE_KEYS)
    rows: dict[str, Any] = former["steps"]
    kind, device = former["rehearsal"], former["machine"]["device"]
    if kind != rehearse:
        found = "a rehearsal" if kind else "a real slice"
        raise Refused(f"{file}: holds the results of {found}; give another --out")
    if device != machine["device"] and device is not None:
        raise Refused(
            f"{file}: holds results of {device}, and this is {machine['device'] or 'no GPU'}; "
            "give another --out"
        )
    return rows if device is not None or rehearse else {}


def describe() -> dict[str, Any]:
    """The machine, asked for in a process of its own: a driver may hang."""
    command = [sys.executable, str(Path(__file__).with_name("machine_probe.py"))]
    nothing = {"device": None, "commit": None}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return nothing | {"problem": "torch does not find its device within 60 s"}
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        return nothing | {"problem": f"the device cannot be examined ({type(error).__name__})"}
    return found


def why_not(step: Step, problem: str | None) -> Row | None:
    """The row of a step that cannot run on this machine."""
    if absent := missing(step.needs):
        return Row(NOT_RUN, f"needs {', '.join(absent)}, not installed")
    if step.on_gpu and problem:
        return Row(NOT_RUN, f"needs a GPU: {problem}")
    return None


def run_slice(name: str, place: Place, again: list[str], stop: Stop) -> int:
    """Run a slice; its exit status."""
    began = time.monotonic()
    check_writable(place.out)
    check_writable(place.scratch)
    _set_environment(place.rehearse)
    machine = describe()
    file = place.out / f"{name}.json"
    rows = open_rows(file, place.rehearse, machine)
    steps = steps_of(name, place)
    unknown = sorted(set(again) - {step.name for step in steps})
    if unknown:
        names = ", ".join(step.name for step in steps)
        raise Refused(f"--again: {unknown[0]}: no step of slice {name}; give one of {names}")
    content = {"format": FORMAT, "slice": name, "rehearsal": place.rehearse, "machine": machine}

    def write() -> None:
        write_rows(file, {**content, "steps": rows})

    print(f"slice {name} on {machine['device'] or 'no GPU'}: {machine['problem'] or 'ready'}")
    for line in package_lines():
        print(line)
    status = run_steps(
        steps,
        rows,
        write,
        log=place.out / "day.log",
        scratch=place.scratch,
        again=again,
        why_not=lambda step: why_not(step, machine["problem"]),
        commit=machine["commit"],
        stop=stop,
        total_s=SLICE_S * (REHEARSAL_FACTOR if place.rehearse else 1) - (time.monotonic() - began),
    )
    for line in over_limits(place.out):
        print(f"too much to bring back: {line}")
    return status


def _set_environment(rehearse: bool) -> None:
    """What all steps inherit: the checkout, and in a rehearsal a machine without a GPU."""
    os.environ["PYTHONPATH"] = search_path(ROOT)
    os.environ["PYTHONUNBUFFERED"] = "1"
    os.environ["COLUMNS"] = "200"
    os.chdir(ROOT)
    if rehearse:
        os.environ.update(CUDA_VISIBLE_DEVICES="", TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


def main() -> int:
    """Run a slice or write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", nargs="?", choices=["report"], help="write tables and charts")
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="what came back")
    parser.add_argument("--slice", choices="abcd")
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument("--again", action="append", default=[], metavar="STEP")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, in minutes")
    parser.add_argument("--scratch", type=Path, help="images and runs; default: under TMPDIR")
    parser.add_argument("--results", type=Path, default=ROOT / "tests" / "results",
                        help="where report copies the results of a GPU")  # fmt: skip
    given = parser.parse_args()
    try:
        if given.command == "report":
            if given.folder is None:
                raise Refused("report: give the folder of the results")
            from day_report import write_report

            folder, results = given.folder.resolve(), given.results.resolve()
            _set_environment(given.rehearse)
            return write_report(folder, results)
        if given.slice is None or given.out is None:
            raise Refused("give --slice and --out, or report DIR; --help explains them")
        kind = "rehearsal" if given.rehearse else "gpu"
        scratch = given.scratch or Path(tempfile.gettempdir()) / f"ixt-day-{kind}-{os.getuid()}"
        place = Place(given.out.resolve(), scratch.resolve(), given.rehearse)
        with stoppable() as stop:
            return run_slice(given.slice, place, given.again, stop)
    except Refused as error:
        print(f"day.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
