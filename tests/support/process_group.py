"""A group of processes on this host, for tests of what several ranks do together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any


def free_port() -> int:
    """A TCP port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What a launcher tells a rank, and this process's environment."""
    group = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": world_size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": 1,
    }
    return {**os.environ, **{key: str(value) for key, value in group.items()}}


def start_two(*arguments: str, **variables: str) -> list[subprocess.Popen[str]]:
    """Start Python twice, as ranks 0 and 1; what they print goes into pipes.

    Args:
        arguments: of the interpreter, such as a script and its own arguments.
        variables: further environment of both.
    """
    port, pipe = free_port(), subprocess.PIPE
    command: list[Any] = [sys.executable, *arguments]
    return [
        subprocess.Popen(
            command,
            env={**rank_environment(rank, 2, port), **variables},
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        for rank in range(2)
    ]
