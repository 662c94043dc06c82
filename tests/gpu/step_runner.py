"""Steps as subprocesses with budgets: run, ended when over budget, kept in a file after each one.

Only the standard library is used, so that a missing package is a line and not a traceback.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

GOOD = "good"
FAILED = "failed"
OVER_BUDGET = "over budget"
INTERRUPTED = "interrupted"
NEEDS_GPU = "needs a GPU"
NOT_RUN = "not run"
SETTLED = (GOOD, NEEDS_GPU)
"""What is not repeated when a slice is run again. Only a rehearsal has rows that need a GPU."""

SLICE_KEYS = ("steps", "rehearsal", "machine")
"""What a slice's file must have to be read again."""
SLICE_S = 570.0
MAX_BYTES = 16 * 2**20
MAX_FILES = 8
_LOG_BYTES = 2**18  # of each step's output
_GRACE_S = 5.0  # from SIGTERM to SIGKILL
_LOOK_S = 0.05


class Refused(Exception):
    """A mistake of the user, in one line."""


@dataclass
class Stop:
    """Whether Ctrl-C or SIGTERM has been received: looked at where it can be obeyed."""

    number: int = 0
    """The first signal, or 0."""

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name


@dataclass(frozen=True)
class Ended:
    """How a step's process ended."""

    status: int | None
    """Exit status; None where it was over budget."""
    output: str
    """The end of stdout and stderr."""
    result: Any
    """What it wrote to its result file, or None."""

    @property
    def last_line(self) -> str:
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1] if lines else "no output"


def by_last_line(ended: Ended) -> tuple[str, str]:
    """The default verdict: the exit status, and what the process printed last."""
    return (GOOD if ended.status == 0 else FAILED), ended.last_line


@dataclass(frozen=True)
class Step:
    """A command with a budget of its own."""

    name: str
    command: Sequence[str]
    budget_s: float
    least_s: float = 20.0
    """It is not started with less time left in the slice."""
    result: Path | None = None
    """JSON file that the command writes, perhaps again and again; it becomes part of the row."""
    resumes: bool = False
    """Whether the command continues what is in its result file."""
    leaves: Path | None = None
    """What later steps need of it; where it is gone, e.g. on another machine, it is repeated."""
    env: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    """Distributions without which it is not run."""
    on_gpu: bool = True
    """Whether it is only run where torch sees a CUDA device."""
    judge: Callable[[Ended], tuple[str, str]] = by_last_line
    """Status and line, from how it ended."""


@dataclass(frozen=True)
class Row:
    """What is kept of a step."""

    status: str
    line: str
    seconds: float = 0.0
    budget_s: float = 0.0
    commit: str | None = None
    result: Any = None


def run_steps(
    steps: Sequence[Step],
    rows: dict[str, Any],
    write: Callable[[], None],
    *,
    log: Path,
    scratch: Path,
    again: Sequence[str] = (),
    why_not: Callable[[Step], Row | None] = lambda step: None,
    commit: str | None = None,
    total_s: float = SLICE_S,
    stop: Stop | None = None,
) -> int:
    """Run the steps that have no good row yet; one line each. Exit status: 0, 1 or 128 + signal.

    Args:
        steps: in order.
        rows: by name; changed in place.
        write: keeps the rows, after every step.
        log: file to which the end of every step's output is added.
        scratch: folder for the output of the step that runs.
        again: names of steps to repeat.
        why_not: a row for a step that cannot run here.
        commit: of the source, kept in each row.
        total_s: of all steps together.
        stop: ends the running step and keeps the others from running.
    """
    deadline, stop = time.monotonic() + total_s, stop or Stop()
    for step in steps:
        before = rows.get(step.name)
        there = step.leaves is None or step.leaves.exists()
        if before and before["status"] in SETTLED and there and step.name not in again:
            print(f"{step.name}: kept, {before['status']}: {before['line']}", flush=True)
            continue
        left = deadline - time.monotonic()
        if stop.number:
            row = Row(NOT_RUN, f"the slice was stopped by {stop.name}")
        elif (refused := why_not(step)) is not None:
            row = refused
        elif left < step.least_s:
            row = Row(
                NOT_RUN,
                f"{max(left, 0):.0f} s of the slice's {total_s:.0f} s are left, "
                f"it needs {step.least_s:.0f}; give the command again",
            )
        else:
            former = before["result"] if before and step.name not in again else None
            _begin_result(step, former)
            output = scratch / f"{step.name.replace(' ', '-')}.txt"
            row = _run(step, min(step.budget_s, left), output, commit, stop)
            _keep_log(log, output, f"{step.name}: {row.status}: {row.line}")
        rows[step.name] = asdict(row)
        write()
        print(f"{step.name}: {row.status}: {row.line} ({row.seconds:.0f} s)", flush=True)
    if stop.number:
        return 128 + stop.number
    return int(any(rows[step.name]["status"] not in SETTLED for step in steps))


def _run(step: Step, budget_s: float, output: Path, commit: str | None, stop: Stop) -> Row:
    began = time.monotonic()
    status, line = FAILED, ""
    try:
        code = run_session(step.command, budget_s, output, step.env, stop)
        ended = Ended(code, _tail(output), _read(step.result))
        status, line = step.judge(ended)
        if code is None and stop.number:
            status, line = INTERRUPTED, f"stopped by {stop.name}; {line}"
        elif code is None:
            status, line = OVER_BUDGET, f"ended after {budget_s:.0f} s; {line}"
    except OSError as error:
        line = f"{step.command[0]}: cannot be started ({error.strerror})"
    except Exception as error:  # a judge must not end the slice
        line = f"its results cannot be read: {type(error).__name__}: {error}"
    seconds = time.monotonic() - began
    return Row(status, line, round(seconds, 1), budget_s, commit, _read(step.result))


def _begin_result(step: Step, former: Any) -> None:
    """Give a step the result of its former call to continue, or nothing."""
    if step.result is None:
        return
    step.result.unlink(missing_ok=True)
    if step.resumes and former is not None:
        write_rows(step.result, former)


def run_session(
    command: Sequence[str], budget_s: float, output: Path, env: dict[str, str], stop: Stop
) -> int | None:
    """Run a command in a session of its own; its exit status, or None if over budget or stopped.

    Whatever ends it, no process of its session is left, of whichever process group.
    """
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=True,
        )
        deadline = time.monotonic() + budget_s
        while process.poll() is None and time.monotonic() < deadline and not stop.number:
            time.sleep(_LOOK_S)
        status = process.poll()
        _end_session(process)
    return status


def _end_session(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    for number in _session(process.pid):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()


def _session(leader: int) -> Iterator[int]:
    """The living processes of a session."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # After the name in brackets: state, parent, process group, session.
            if int(file.read_text().rpartition(")")[2].split()[3]) == leader:
                yield int(file.parent.name)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within the block, Ctrl-C and SIGTERM are noted."""
    noted = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        noted.number = noted.number or number

    former = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _tail(file: Path) -> str:
    data = file.read_bytes() if file.exists() else b""
    return data[-_LOG_BYTES:].decode(errors="replace")


def _read(file: Path | None) -> Any:
    """What a step has written by now; None where it is missing or half."""
    if file is None:
        return None
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def _keep_log(log: Path, output: Path, heading: str) -> None:
    """Add a step's output; the oldest is dropped when the file is full."""
    former = log.read_bytes() if log.exists() else b""
    new = f"===== {heading}\n{_tail(output)}\n".encode()
    log.write_bytes((former + new)[-MAX_BYTES:])


def write_rows(file: Path, content: Any) -> None:
    """Replace a JSON file: a kill leaves the former one."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(file)


def over_limits(folder: Path) -> list[str]:
    """What is too much or too large to bring back, in words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = [
        f"{path.name}: {path.stat().st_size / 2**20:.1f} MiB, more than {MAX_BYTES // 2**20}"
        for path in files
        if path.stat().st_size > MAX_BYTES
    ]
    if len(files) > MAX_FILES:
        found.append(f"{folder}: {len(files)} files, more than {MAX_FILES}")
    return found


def read_results(file: Path, *keys: str) -> dict[str, Any]:
    """A JSON object with these keys.

    Raises:
        Refused: it is unreadable or something else.
    """
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Refused(
            f"{file}: is unreadable ({type(error).__name__}); delete it or give another folder"
        ) from None
    if not isinstance(content, dict) or not content.keys() >= {*keys}:
        raise Refused(
            f"{file}: has not the keys {', '.join(keys)}; delete it or give another folder"
        )
    return content


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Refused(
            f"{folder}: is not writable ({error.strerror}); give another folder"
        ) from None
