"""Wait for the process that hosts a run's store before torch does, which would wait for ever.

A host that is not there yet is waited for, with a line that says so: machines of a cluster start
minutes apart. A port where something answers, but not as a store, is used by another program;
torch's client has no time limit for that.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable
from enum import Enum

from ixt.distributed.timing import REAL, Timing
from ixt.errors import EngineError
from ixt.files import reason

_ANSWER_S = 8.0  # a store answers within milliseconds, also a busy one within seconds
_STEP_S = 1.0
_REPORT_S = 30.0
_PATIENCE_S = 1800.0  # torch's own, for gloo
# torch's TCPStore.cpp: a magic number, then a number that comes back.
_PING = struct.Struct("=BIBI")
_VALIDATE, _MAGIC, _PING_KIND, _NONCE = 0, 0x3C85F7CE, 13, 0x1C7A9E01


class Answer(Enum):
    """What is found at a host and port."""

    STORE = "a store"
    FOREIGN = "a program that does not answer as a store"
    NOBODY = "nobody"


def wait_for_store(
    host: str,
    port: int,
    remedy: str,
    stopped: Callable[[], bool] = lambda: False,
    look: Callable[[str, int], tuple[Answer, str]] | None = None,
    timing: Timing = REAL,
) -> None:
    """Return as soon as the run's store answers, or when a signal asked to stop.

    `remedy` says what to do where another program has the port, `stopped` whether to give up
    silently, and `look` what is there instead of the store; it asks over the network if not given.

    Raises:
        EngineError: another program uses the port, or the store did not start within half an hour.
    """
    began_s = reported_s = timing.now()
    foreign_s: float | None = None
    while not stopped():
        answer, why = (look or ask)(host, port)
        now_s = timing.now()
        if answer is Answer.STORE:
            return
        foreign_s = None if answer is Answer.NOBODY else foreign_s or now_s
        if foreign_s is not None and now_s - foreign_s >= _ANSWER_S - 2 * _STEP_S:
            raise EngineError(
                f"{host}:{port}: something listens there but does not answer like the first "
                "process of this run: another program uses the port, or that process is stopped; "
                f"{remedy}"
            )
        if now_s - began_s > _PATIENCE_S:
            raise EngineError(
                f"{host}:{port}: the first process of this run did not start within "
                f"{_PATIENCE_S / 60:.0f} min: {why}; start it, or check the address"
            )
        if now_s - reported_s >= _REPORT_S:
            reported_s = now_s
            minutes = (now_s - began_s) / 60
            line = f"waited {minutes:.1f} min for the first process at {host}:{port}: {why}"
            print(line, file=sys.stderr, flush=True)
        timing.sleep(_STEP_S)


def ask(host: str, port: int, limit_s: float = 2.0) -> tuple[Answer, str]:
    """Who is at a host and port, and what was found instead of a store."""
    try:
        connection = socket.create_connection((host, port), limit_s)
    except OSError as error:
        return Answer.NOBODY, reason(error)
    with connection:
        try:
            connection.sendall(_PING.pack(_VALIDATE, _MAGIC, _PING_KIND, _NONCE))
            said = connection.recv(4)
        except OSError as error:
            return Answer.FOREIGN, reason(error)
    same = said == struct.pack("=I", _NONCE)
    return (Answer.STORE, "") if same else (Answer.FOREIGN, "another answer")
