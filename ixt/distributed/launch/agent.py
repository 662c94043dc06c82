"""Starting the processes of this machine, through torch's elastic agent."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ixt.distributed.launch import rank_file, worker
from ixt.distributed.launch.addresses import address_towards, is_own
from ixt.distributed.launch.environment import alone_by_choice, join
from ixt.distributed.launch.failures import Verdict, judge
from ixt.distributed.launch.nodes import Nodes, check_share, split_endpoint
from ixt.distributed.signals import SignalListener
from ixt.errors import EngineError
from ixt.files import replace_text

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def in_processes(
    num_processes: int | None,
    nodes: Nodes | None = None,
    micro_batches: int | None = None,
    run_dir: Path | None = None,
) -> int | None:
    """Run this command line in several processes, unless it is to run here.

    Args:
        num_processes: asked for on this machine; None takes one per GPU.
        nodes: asked-for machines; None for this one alone.
        micro_batches: of an update, to be shared evenly; None where nothing is shared.
        run_dir: where the traceback of a process that crashed is written; None prints it.

    Returns:
        The exit status of the processes; None where this process has to do the work, alone or as
        one of a group.

    Raises:
        EngineError: as `join`, `check_share` and `launch`.
    """
    if join(starts_its_own=num_processes is not None or nodes is not None):
        worker.begin()
        return None
    count = num_processes or (1 if alone_by_choice() else _num_gpus() or 1)
    if count == 1 and nodes is None:
        return None
    if micro_batches is not None:
        check_share(micro_batches, count, nodes or Nodes())
    return launch(sys.argv[1:], count, nodes, run_dir)


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def launch(
    arguments: list[str],
    num_processes: int,
    nodes: Nodes | None = None,
    run_dir: Path | None = None,
) -> int:
    """Run `ixt` with these arguments in several processes; return the exit status.

    Args:
        arguments: of the command line, without the program's name.
        num_processes: to start on this machine.
        nodes: other machines that do the same; None for this one alone.
        run_dir: where the traceback of a process that crashed is written; None prints it.

    Raises:
        EngineError: a process failed for a reason that the user can fix, or the machines cannot
            meet.
    """
    # Heavy, and only needed here: the started processes do the work.
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    nodes = nodes or Nodes()
    config = _config(num_processes, nodes)
    with _environment() as folder:
        try:
            elastic_launch(config, sys.executable)("-m", "ixt", *arguments)
        except SignalException as error:
            _print_reports(folder, num_processes)
            return 128 + int(error.sigval)
        except ChildFailedError as error:
            return _report(judge(folder, error.failures), run_dir)
        except RendezvousError as error:
            cause = str(error.__cause__ or error).splitlines()[0]
            raise EngineError(
                f"{nodes.endpoint}: the machines cannot meet there: {cause}; start all of them, "
                "with the same --rdzv-endpoint (the first one's) and --rdzv-id"
            ) from error
    return 0


def _config(num_processes: int, nodes: Nodes) -> LaunchConfig:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    endpoint, address, options = "localhost:0", "localhost", {}
    if nodes.endpoint is not None:
        host, port = split_endpoint(nodes.endpoint)
        endpoint, address = f"{host}:{port}", address_towards(host, port, nodes.most > 1)
        options["is_host"] = str(is_own(host)).lower()
    return LaunchConfig(
        min_nodes=nodes.least,
        max_nodes=nodes.most,
        nproc_per_node=num_processes,
        run_id=nodes.run_id or ("ixt" if nodes.endpoint else uuid.uuid4().hex),
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs=options,
        local_addr=address,
        max_restarts=nodes.max_restarts,
        signals_to_handle=_SIGNALS,
        logs_specs=DefaultLogsSpecs(),
    )


@contextmanager
def _environment() -> Iterator[Path]:
    """What the started processes find in their environment; yields the folder for their reports."""
    # A failed process has reported what is wrong; the agent's report of it says nothing more.
    for name in ("multiprocessing.api", "agent.server.api"):
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Without it a machine that joins later looks for a store that is gone, and all agents end.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with tempfile.TemporaryDirectory(prefix="ixt-ranks-") as folder:
        os.environ[rank_file.FOLDER] = folder
        os.environ[rank_file.AGENT] = str(os.getpid())
        listener = SignalListener(_kill_at_second_interrupt(Path(folder)))
        try:
            yield Path(folder)
        finally:
            listener.close()
            del os.environ[rank_file.FOLDER], os.environ[rank_file.AGENT]


def _kill_at_second_interrupt(folder: Path) -> Callable[[int], None]:
    """A second Ctrl-C ends the processes at once; the agent alone would wait for them again."""
    interrupts = 0

    def receive(number: int) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            for pid in rank_file.process_ids(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    return receive


def _report(verdict: Verdict, run_dir: Path | None) -> int:
    """Print what ended the run; return its exit status.

    Raises:
        EngineError: the user can fix it.
    """
    if verdict.status == 2:
        raise EngineError(verdict.message)
    message = verdict.message
    if verdict.trace and run_dir is not None and run_dir.is_dir():
        file = run_dir / "failure.txt"
        replace_text(file, verdict.trace)
        message += f"; traceback in {file}"
    elif verdict.trace:
        print(verdict.trace, file=sys.stderr, end="")
    print(message, file=sys.stderr)
    return verdict.status


def _print_reports(folder: Path, num_processes: int) -> None:
    """Print what the processes reported when a signal stopped them; the same message once."""
    reports = [rank_file.report_of(folder, rank) for rank in range(num_processes)]
    messages = sorted({report.message for report in reports if report is not None})
    print("\n".join(messages) or "stopped before a step was saved", file=sys.stderr)
