"""Which address and interface of this machine the others reach."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address

from ixt.errors import EngineError


def address_towards(host: str, port: int) -> str:
    """This machine's own address on the way to a host; nothing is sent.

    Raises:
        EngineError: the host's name does not resolve, or no route leads there.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # a datagram socket only picks its route
            return str(probe.getsockname()[0])
    except OSError as error:
        raise EngineError(f"{host}:{port}: {error.strerror or error}; check the address") from error


def is_own(host: str) -> bool:
    """Whether a host name or address is this machine's.

    Torch asks only what the own host name resolves to, and so misses further interfaces.
    """
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = _interfaces()
    return any(address in own or ip_address(address).is_loopback for address in found)


def use_interface_towards(host: str, port: int) -> None:
    """Let gloo use the interface that leads to a host, unless the user has chosen one.

    Left alone it takes the address of the own host name, often 127.0.1.1, where no other machine
    can reach it.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    try:
        name = _interfaces().get(address_towards(host, port))
    except EngineError:
        return  # whoever opens the connection says what is wrong
    if name is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name


def _interfaces() -> dict[str, str]:
    """Interface of each address of this machine."""
    import psutil

    return {
        entry.address.split("%")[0]: name
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    }
