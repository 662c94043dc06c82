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
class Ending:
    """Why a rank ended."""

    status: int
    """Its exit status."""
    message: str
    """One line."""
    because_of_another: bool = False
    """Whether it ended only since another process did."""
    trace: str = ""
    """Traceback of an error that the user cannot mend."""
    pid: int = 0


class _Own:
    """This process's last step, here and in its file."""

    step = _NO_STEP
    file: mmap.mmap | None = None


def begin() -> str | None:
    """Open this process's file.

    Returns:
        What became of the process that had this place before a restart; None if there was none.
    """
    if FOLDER not in os.environ:
        return None
    folder, local_rank = Path(os.environ[FOLDER]), int(os.environ["LOCAL_RANK"])
    end, file = _end_file(folder, local_rank), _step_file(folder, local_rank)
    before = None
    if file.exists():
        pid, step = _FORMAT.unpack(file.read_bytes())
        ending = ending_of(folder, local_rank, pid)
        reason = ending.message if ending else "ended without a word"
        before = f"{moment(None if step == _NO_STEP else step)}: {reason}"
        end.unlink(missing_ok=True)
    file.write_bytes(_FORMAT.pack(os.getpid(), _NO_STEP))
    with file.open("r+b") as stream:
        _Own.file = mmap.mmap(stream.fileno(), _FORMAT.size)
    return before


def beat(step: int) -> None:
    """Note that this many updates are done."""
    _Own.step = step
    if _Own.file is not None:
        _FORMAT.pack_into(_Own.file, 0, os.getpid(), step)


def moment(step: int | None) -> str:
    """When something happened, in words."""
    return "before the first step" if step is None else f"after step {step}"


def own_step() -> int | None:
    """Updates that this process has done; None before the first."""
    return None if _Own.step == _NO_STEP else _Own.step


def leave(ending: Ending) -> bool:
    """Leave the reason of this process's end; False if nobody waits for it."""
    if FOLDER not in os.environ or agent_is_gone():
        return False
    file = _end_file(Path(os.environ[FOLDER]), int(os.environ["LOCAL_RANK"]))
    file.write_text(json.dumps({**asdict(ending), "pid": os.getpid()}))
    return True


def agent_is_gone() -> bool:
    """Whether the agent that started this process has ended before it."""
    return AGENT in os.environ and os.getppid() != int(os.environ[AGENT])


def ending_of(folder: Path, local_rank: int, pid: int | None = None) -> Ending | None:
    """What a rank left; with a process id, only if it is that process's word."""
    file = _end_file(folder, local_rank)
    if not file.exists():
        return None
    try:
        ending = Ending(**json.loads(file.read_text()))
    except (ValueError, TypeError):  # it was killed while it wrote
        return None
    return ending if pid in (None, ending.pid) else None


def step_of(folder: Path, local_rank: int, pid: int) -> int | None:
    """The last step that a process noted; None before its first."""
    file = _step_file(folder, local_rank)
    owner, step = _FORMAT.unpack(file.read_bytes()) if file.exists() else (0, _NO_STEP)
    return None if owner != pid or step == _NO_STEP else step


def a_neighbour_died() -> bool:
    """Whether another process of the same agent is gone; one not reaped yet counts as gone."""
    if FOLDER not in os.environ:
        return False
    return not all(_runs(pid) for pid in process_ids(Path(os.environ[FOLDER])))


def process_ids(folder: Path) -> list[int]:
    """The processes that have begun last in each place."""
    return [_FORMAT.unpack(file.read_bytes())[0] for file in folder.glob("*.step")]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def _step_file(folder: Path, local_rank: int) -> Path:
    return folder / f"{local_rank}.step"


def _end_file(folder: Path, local_rank: int) -> Path:
    return folder / f"{local_rank}.end"
