"""Starting the processes of this machine, through torch's elastic agent."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from ixt.distributed.launch import rank_file, worker
from ixt.distributed.launch.addresses import address_towards, is_own
from ixt.distributed.launch.ending import Left, Stopped, stopped_message, stopped_status
from ixt.distributed.launch.environment import alone_by_choice, join
from ixt.distributed.launch.failures import Verdict, judge
from ixt.distributed.launch.nodes import Nodes, check_share, split_endpoint
from ixt.distributed.launch.rendezvous import wait_for_store
from ixt.distributed.run_status import STATUS, State, end_running
from ixt.distributed.signals import Received, StopRequest
from ixt.errors import EngineError
from ixt.files import replace_text

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server.api import RunResult

    from ixt.distributed.launch.supervisor import Supervisor


def in_processes(
    num_processes: int | None,
    nodes: Nodes | None = None,
    micro_batches: int | None = None,
    run_dir: Path | None = None,
) -> int | None:
    """Run this command line in several processes, unless it is to run here.

    Without a number there is a process per GPU, without `nodes` this machine is alone.
    `micro_batches` are those of an update, to be shared evenly, if anything is. The traceback of a
    process that crashed is written into `run_dir`, else printed.

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

    `arguments` lack the program's name; `nodes` and `run_dir` are as in `in_processes`.

    Raises:
        EngineError: a process failed for a reason that the user can fix, or the machines cannot
            connect.
    """
    # Heavy, and only needed here: the started processes do the work.
    from torch.distributed.elastic.rendezvous import RendezvousError

    nodes, before = nodes or Nodes(), _status_text(run_dir)
    with _environment() as folder, StopRequest(also=[signal.SIGQUIT], raises=False) as stop:
        left = []
        try:
            supervisor = _supervisor(arguments, num_processes, nodes, stop.received)
            try:
                result = _run(supervisor)
            finally:
                left = supervisor.left(folder)
        except Stopped:
            status, message = _stopped(left, stop.received)
            if status:
                _record_end(run_dir, before, "stopped", message)
            print(message, file=sys.stderr, end="\n" if message else "")
            return status
        except RendezvousError as error:
            raise EngineError(_cannot_meet(nodes, error)) from error
        if not result.is_failed():
            return 0
        verdict = judge(folder, result.failures)
        _record_end(run_dir, before, "failed", verdict.message)
        return _report(verdict, run_dir)


def _supervisor(
    arguments: list[str], num_processes: int, nodes: Nodes, received: Received
) -> Supervisor:
    """The agent that runs `ixt` with these arguments; it joins the other machines' store here."""
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    from ixt.distributed.launch.supervisor import Supervisor

    endpoint, address, options = "localhost:0", "localhost", {}
    if nodes.endpoint is not None:
        host, port = split_endpoint(nodes.endpoint)
        endpoint, address = f"{host}:{port}", address_towards(host, port, nodes.most > 1)
        hosts = is_own(host)
        options["is_host"] = str(hosts).lower()
        if not hosts:
            remedy = "give an --rdzv-endpoint with a free port on all machines"
            wait_for_store(host, port, remedy, lambda: bool(received.first))
            if received.first:
                raise Stopped
    parameters = RendezvousParameters(
        backend="c10d",
        endpoint=endpoint,
        run_id=nodes.run_id or ("ixt" if nodes.endpoint else uuid.uuid4().hex),
        min_nodes=nodes.least,
        max_nodes=nodes.most,
        local_addr=address,
        **options,
    )
    spec = WorkerSpec(
        role="default",
        local_world_size=num_processes,
        entrypoint=sys.executable,
        args=("-m", "ixt", *arguments),
        rdzv_handler=get_rendezvous_handler(parameters),
        max_restarts=nodes.max_restarts,
        local_addr=address,
    )
    return Supervisor(spec, received)


def _run(supervisor: Supervisor) -> RunResult:
    """Run to the end, in a thread: signals ask it to stop, and never cut it off.

    Raises:
        Stopped: a signal asked to stop; no process runs any more.
        RendezvousError: the machines cannot meet.
    """
    results: list[RunResult | BaseException] = []
    done = Event()

    def run() -> None:
        try:
            results.append(supervisor.run_once())
        except BaseException as error:
            results.append(error)
        done.set()

    Thread(target=run, name="agent", daemon=True).start()
    supervisor.oversight.wait(done)
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def _stopped(left: list[Left], received: Received) -> tuple[int, str]:
    message = stopped_message(received.first, received.at_once, left)
    return stopped_status(received.first, left), message


def _cannot_meet(nodes: Nodes, error: Exception) -> str:
    cause = str(error.__cause__ or error).splitlines()[0]
    return (
        f"{nodes.endpoint}: the machines cannot connect there: {cause}; start ixt on all of them, "
        "with the same --rdzv-endpoint (the first machine's) and --rdzv-id"
    )


@contextmanager
def _environment() -> Iterator[Path]:
    """Set environment variables for the processes to start; yields the folder for their reports."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Without it a machine that joins later looks for a store that is gone, and all agents end.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with tempfile.TemporaryDirectory(prefix="ixt-ranks-") as folder:
        os.environ[rank_file.FOLDER] = folder
        os.environ[rank_file.AGENT] = str(os.getpid())
        try:
            yield Path(folder)
        finally:
            del os.environ[rank_file.FOLDER], os.environ[rank_file.AGENT]


def _status_text(run_dir: Path | None) -> bytes | None:
    """The status of the run as it is in the file."""
    file = None if run_dir is None else run_dir / STATUS
    return file.read_bytes() if file is not None and file.is_file() else None


def _record_end(run_dir: Path | None, before: bytes | None, state: State, message: str) -> None:
    """Note why processes ended that began to train here and could not note it themselves.

    Where the status that was there `before` they started still stands, they have not begun.
    """
    if run_dir is not None and _status_text(run_dir) != before:
        end_running(run_dir, state, message.partition("\n")[0])


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
