"""What a rank leaves for the agent that started it: its last step, and why it ended.

Two files per local rank in a folder of the agent (IXT_RANK_FOLDER). The step lies in mapped memory,
so that noting it costs a microsecond and outlives a SIGKILL.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = "IXT_RANK_FOLDER"
"""Environment variable: where ranks leave their files; unset where nobody reads them."""

AGENT = "IXT_AGENT"
"""Environment variable: process id of the agent that reads them."""

_FORMAT = struct.Struct("=qq")  # process id, step
_NO_STEP = -1


@dataclass(frozen=True)
class RankReport:
    """The end of a rank, and its reason."""

    status: int
    """Its exit status."""
    message: str
    """One line."""
    because_of_another: bool = False
    """Whether it ended only because another process did."""
    trace: str = ""
    """Traceback of an error that the user cannot fix."""
    pid: int = 0


class _Own:
    """This process's last step, here and in its file."""

    step: int | None = None
    file: mmap.mmap | None = None


def begin() -> str | None:
    """Open this process's file.

    Returns:
        What became of the process that had this place before a restart; None if there was none.
    """
    if FOLDER not in os.environ:
        return None
    folder, local_rank = Path(os.environ[FOLDER]), int(os.environ["LOCAL_RANK"])
    pid, step = _read_step(folder, local_rank)
    before = None
    if pid:
        report = report_of(folder, local_rank, pid)
        before = f"{moment(step)}: {report.message if report else 'ended without a report'}"
        _report_file(folder, local_rank).unlink(missing_ok=True)
    file = _step_file(folder, local_rank)
    file.write_bytes(_FORMAT.pack(os.getpid(), _NO_STEP))
    with file.open("r+b") as stream:
        _Own.file = mmap.mmap(stream.fileno(), _FORMAT.size)
    return before


def note_step(step: int) -> None:
    """Note that this many updates are done."""
    _Own.step = step
    if _Own.file is not None:
        _FORMAT.pack_into(_Own.file, 0, os.getpid(), step)


def own_step() -> int | None:
    """Updates that this process has done; None before the first."""
    return _Own.step


def moment(step: int | None) -> str:
    """When something happened, in words."""
    return "before the first step" if step is None else f"after step {step}"


def leave_report(report: RankReport) -> bool:
    """Leave the reason of this process's end; False if nobody waits for it."""
    if FOLDER not in os.environ or agent_is_gone():
        return False
    file = _report_file(Path(os.environ[FOLDER]), int(os.environ["LOCAL_RANK"]))
    try:
        file.write_text(json.dumps({**asdict(report), "pid": os.getpid()}))
    except OSError:  # the agent has left just now, or its disk is full
        return False
    return True


def has_agent() -> bool:
    """Whether our own launcher started this process and watches over it."""
    return FOLDER in os.environ and not agent_is_gone()


def agent_is_gone() -> bool:
    """Whether the agent that started this process has ended before it."""
    return AGENT in os.environ and os.getppid() != int(os.environ[AGENT])


def report_of(folder: Path, local_rank: int, pid: int | None = None) -> RankReport | None:
    """The report of a rank; with a process id, only if that process wrote it."""
    try:
        report = RankReport(**json.loads(_report_file(folder, local_rank).read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # none, or killed while it wrote
        return None
    return report if pid in (None, report.pid) else None


def step_of(folder: Path, local_rank: int, pid: int) -> int | None:
    """The last step that a process noted; None before its first."""
    owner, step = _read_step(folder, local_rank)
    return step if owner == pid else None


def process_ids(folder: Path) -> list[int]:
    """The processes that have begun last in each place."""
    ranks = [int(file.stem) for file in folder.glob("*.step")]
    return [pid for rank in ranks if (pid := _read_step(folder, rank)[0])]


def a_neighbour_died() -> bool:
    """Whether another process of the same agent is gone; one not reaped yet counts as gone."""
    if FOLDER not in os.environ:
        return False
    return not all(state_of(pid) for pid in process_ids(Path(os.environ[FOLDER])))


def state_of(pid: int) -> str:
    """Linux' letter for the state of a process of this machine; empty where it has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
    return "" if state in ("Z", "X") else state


def _read_step(folder: Path, local_rank: int) -> tuple[int, int | None]:
    """The process that has this place, 0 if none has had it yet, and its last step."""
    file = _step_file(folder, local_rank)
    try:
        pid, step = _FORMAT.unpack(file.read_bytes())
    except (FileNotFoundError, struct.error):  # not begun, or just about to
        pid, step = 0, _NO_STEP
    return pid, None if step == _NO_STEP else step


def _step_file(folder: Path, local_rank: int) -> Path:
    return folder / f"{local_rank}.step"


def _report_file(folder: Path, local_rank: int) -> Path:
    return folder / f"{local_rank}.end"
