"""Starting several processes on this machine, through torch's elastic agent."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import uuid
from pathlib import Path

from ixt.errors import EngineError

ERROR_FOLDER = "IXT_ERROR_FOLDER"
"""Environment variable: where a started process leaves its one-line error for its parent."""


def launched() -> bool:
    """Whether a launcher (ours, torchrun, accelerate, deepspeed) started this process."""
    return "RANK" in os.environ


def launch(arguments: list[str], num_processes: int) -> int:
    """Run `ixt` with these arguments in several processes; return the exit status.

    Args:
        arguments: of the command line, without the program's name.
        num_processes: to start on this machine.

    Raises:
        EngineError: a process failed for a reason that the user can mend.
    """
    # Heavy, and only needed here: the started processes do the work.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(),
    )
    # A failed process has said what is wrong; the agent's report of it says nothing more.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        os.environ[ERROR_FOLDER] = folder
        try:
            elastic_launch(config, sys.executable)("-m", "ixt", *arguments)
        except SignalException as error:
            return 128 + int(error.sigval)
        except ChildFailedError as error:
            said = {file.read_text() for file in sorted(Path(folder).iterdir())}
            if said:
                raise EngineError("\n".join(sorted(said))) from None
            _, failure = error.get_first_failure()
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        finally:
            del os.environ[ERROR_FOLDER]
    return 0


def leave_error(message: str) -> bool:
    """Leave this process's error for the process that started it; False if nobody waits for it."""
    folder = os.environ.get(ERROR_FOLDER)
    if folder is None:
        return False
    (Path(folder) / f"rank-{os.environ.get('RANK', '0')}").write_text(message)
    return True
