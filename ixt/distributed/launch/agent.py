"""Starting the processes of this machine, through torch's elastic agent."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ixt.distributed.launch import rank_file
from ixt.distributed.launch.addresses import address_towards, is_own
from ixt.distributed.launch.failures import Failure, Verdict, judge
from ixt.distributed.signals import SignalListener
from ixt.errors import EngineError

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

_DEFAULT_PORT = 29400  # torch's, for c10d
_ENDPOINT = re.compile(r"(\[(?P<address>[\da-fA-F:.]+)\]|(?P<host>[\w.-]+))(:(?P<port>\d{1,5}))?")
_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
_LOST_HOST_RESTARTS = 3


@dataclass(frozen=True)
class Nodes:
    """Which machines train together, and how they find each other."""

    least: int = 1
    """Machines needed to train."""
    most: int = 1
    """Machines used when they are there."""
    endpoint: str | None = None
    """host:port of the machine that the others meet at; None on a single machine."""
    run_id: str | None = None
    """Name of the meeting; all machines of a run give the same."""
    max_restarts: int = 0
    """How often failed processes are started again, from the newest checkpoint."""

    @property
    def restarts(self) -> bool:
        """Whether processes may be started again within the run."""
        return self.least != self.most or self.max_restarts > 0


def parse_nodes(
    nodes: str | None, endpoint: str | None, run_id: str | None, max_restarts: int | None
) -> Nodes | None:
    """Read the options about machines; None where none is given.

    Raises:
        EngineError: they contradict each other.
    """
    if nodes is None:
        if endpoint or run_id:
            raise EngineError("--rdzv-endpoint and --rdzv-id: for several machines; add --nodes N")
        return None if max_restarts is None else Nodes(max_restarts=max_restarts)
    least, _, most = nodes.partition(":")
    try:
        low, high = int(least), int(most or least)
    except ValueError:
        low = high = 0
    if not 1 <= low <= high:
        raise EngineError(f"--nodes: {nodes!r} is neither a number nor a range such as 1:4")
    if high > 1 and endpoint is None:
        raise EngineError(
            "--nodes: several machines need a place to meet; "
            "add --rdzv-endpoint HOST:PORT with the first machine's name on all of them"
        )
    default = _LOST_HOST_RESTARTS if low != high else 0
    return Nodes(low, high, endpoint, run_id, default if max_restarts is None else max_restarts)


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of a meeting place; an IPv6 address stands in brackets, as in a URL.

    Args:
        endpoint: HOST, HOST:PORT, [ADDRESS] or [ADDRESS]:PORT.

    Raises:
        EngineError: it is none of these.
    """
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None:
        raise EngineError(
            f"--rdzv-endpoint: {endpoint!r} is not HOST:PORT; write an IPv6 address as [::1]:29400"
        )
    return match["address"] or match["host"], int(match["port"] or _DEFAULT_PORT)


def check_share(micro_batches: int, num_processes: int, nodes: Nodes) -> None:
    """Refuse numbers of machines that cannot share an update evenly.

    Args:
        micro_batches: of an update, over all processes.
        num_processes: on each machine.
        nodes: how many machines there may be.

    Raises:
        EngineError: one of the possible numbers of processes does not divide the micro-batches.
    """
    counts = range(nodes.least, nodes.most + 1)
    bad = [count for count in counts if micro_batches % (count * num_processes)]
    if bad:
        fit = [str(n) for n in counts if n not in bad]
        raise EngineError(
            f"engine: {micro_batches} micro-batches per update (global_batch_size / "
            f"micro_batch_size) cannot be shared by {bad[0] * num_processes} processes "
            f"({bad[0]} machines with {num_processes} each); "
            f"numbers of machines that fit: {', '.join(fit) or 'none'}"
        )


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
        EngineError: a process failed for a reason that the user can mend, or the machines cannot
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
            _say_endings(folder, num_processes)
            return 128 + int(error.sigval)
        except ChildFailedError as error:
            return _report(judge(folder, _failures(error.failures)), run_dir)
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
    """What the started processes find in their environment; yields the folder for their word."""
    # A failed process has said what is wrong; the agent's report of it says nothing more.
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

    def hear(number: int) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            for pid in rank_file.process_ids(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    return hear


def _failures(failures: dict[int, Any]) -> dict[int, Failure]:
    return {
        rank: Failure(rank, failure.local_rank, failure.pid, failure.exitcode)
        for rank, failure in failures.items()
    }


def _report(verdict: Verdict, run_dir: Path | None) -> int:
    """Say what ended the run; return its exit status.

    Raises:
        EngineError: the user can mend it.
    """
    if verdict.status == 2:
        raise EngineError(verdict.message)
    message = verdict.message
    if verdict.trace and run_dir is not None and run_dir.is_dir():
        file = run_dir / "failure.txt"
        file.write_text(verdict.trace)
        message += f"; traceback in {file}"
    elif verdict.trace:
        print(verdict.trace, file=sys.stderr, end="")
    print(message, file=sys.stderr)
    return verdict.status


def _say_endings(folder: Path, num_processes: int) -> None:
    """Print what the processes said when a signal stopped them; the same words once."""
    endings = [rank_file.ending_of(folder, rank) for rank in range(num_processes)]
    said = sorted({ending.message for ending in endings if ending is not None})
    print("\n".join(said) or "stopped before a step was saved", file=sys.stderr)
