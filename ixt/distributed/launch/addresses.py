"""Which address and interface of this machine the others reach."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from ipaddress import ip_address

from ixt.errors import EngineError
from ixt.files import reason

# Reserved for documentation (RFC 5737): the way there is the default route.
_ELSEWHERE = "192.0.2.1"


def address_towards(host: str, port: int, for_others: bool = False) -> str:
    """This machine's own address on the way to a host; nothing is sent.

    `for_others`: other machines are to reach it. Where the way is a loopback, as the host is this
    machine and its name means 127.0.1.1, take the address of the default route.

    Raises:
        EngineError: the host's name does not resolve, or no route leads there.
    """
    try:
        address = _source_address(host, port)
    except OSError as error:
        raise EngineError(f"{host}:{port}: {reason(error)}; check the address") from error
    if for_others and ip_address(address).is_loopback:
        with suppress(OSError):
            return _source_address(_ELSEWHERE, port)
    return address


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


def use_interface_towards(host: str, port: int, for_others: bool) -> None:
    """Let gloo use the interface that leads to a host, unless the user has chosen one.

    Left alone it takes the address of the own host name, often 127.0.1.1, where no other machine
    can reach it. The arguments are those of `address_towards`.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    try:
        name = _interfaces().get(address_towards(host, port, for_others))
    except EngineError:
        return  # whoever opens the connection says what is wrong
    if name is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name


def _source_address(host: str, port: int) -> str:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # a datagram socket only picks its route
        return str(probe.getsockname()[0])


def _interfaces() -> dict[str, str]:
    """Interface of each address of this machine."""
    import psutil

    return {
        entry.address.split("%")[0]: name
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    }
