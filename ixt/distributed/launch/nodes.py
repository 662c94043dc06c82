"""Which machines train together: the options about them, and what they can share."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ixt.errors import EngineError

_DEFAULT_PORT = 29400  # torch's, for c10d
_ENDPOINT = re.compile(r"(\[(?P<address>[\da-fA-F:.]+)\]|(?P<host>[\w.-]+))(:(?P<port>\d{1,5}))?")
_LOST_HOST_RESTARTS = 3


@dataclass(frozen=True)
class Nodes:
    """Which machines train together, and where their rendezvous is."""

    least: int = 1
    """Machines needed to train."""
    most: int = 1
    """Largest number of machines that are used, as they become available."""
    endpoint: str | None = None
    """host:port of the machine that hosts the rendezvous; None on a single machine."""
    run_id: str | None = None
    """Rendezvous ID; all machines of a run give the same."""
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
            raise EngineError(
                "--rdzv-endpoint and --rdzv-id: are for several machines; add --nodes N"
            )
        return None if max_restarts is None else Nodes(max_restarts=max_restarts)
    least, _, most = nodes.partition(":")
    try:
        low, high = int(least), int(most or least)
    except ValueError:
        low = high = 0
    if not 1 <= low <= high:
        raise EngineError(f"--nodes: {nodes!r} is neither a number nor a range, e.g. 1:4")
    if high > 1 and endpoint is None:
        raise EngineError(
            "--nodes: several machines need a rendezvous; on all of them, add --rdzv-endpoint "
            "HOST:PORT with the first machine's name"
        )
    default = _LOST_HOST_RESTARTS if low != high else 0
    return Nodes(low, high, endpoint, run_id, default if max_restarts is None else max_restarts)


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of a rendezvous; an IPv6 address stands in brackets, as in a URL.

    It is HOST, HOST:PORT, [ADDRESS] or [ADDRESS]:PORT.

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

    `micro_batches` are those of an update, over all processes.

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
