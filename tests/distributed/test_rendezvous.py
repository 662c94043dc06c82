"""Waiting for the first process of a run: for a free port, but not for one of another program."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from process_group import free_port
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ixt.distributed.launch import agent, rendezvous
from ixt.distributed.launch.nodes import Nodes
from ixt.distributed.launch.rendezvous import Answer, ask, wait_for_store
from ixt.distributed.timing import Timing
from ixt.errors import EngineError


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Another program that accepts connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


class Simulated:
    """A clock, and what is at the port at which time."""

    def __init__(self, *there: tuple[float, Answer]) -> None:
        self.now_s, self._there = 0.0, there
        self.timing = Timing(now=lambda: self.now_s, wait=self._wait)

    def _wait(self, event: threading.Event, duration_s: float | None) -> bool:
        self.now_s += duration_s or 0
        return False

    def look(self, host: str, port: int) -> tuple[Answer, str]:
        found = [answer for at_s, answer in self._there if at_s <= self.now_s][-1]
        self.now_s += 2.0 if found is Answer.FOREIGN else 0.0
        return found, "connection refused"

    def wait(self) -> None:
        wait_for_store("n1", 29500, "take another", look=self.look, timing=self.timing)


@pytest.mark.parametrize("libuv", [True, False])
def test_torchs_store_answers_our_ping_and_stays_whole(libuv: bool) -> None:
    store = TCPStore(
        "127.0.0.1", free_port(), is_master=True, wait_for_workers=False, use_libuv=libuv
    )
    assert ask("127.0.0.1", store.port) == (Answer.STORE, "")
    client = TCPStore("127.0.0.1", store.port, is_master=False)
    client.set("key", "value")
    assert store.get("key") == b"value"


def test_another_program_and_a_free_port_are_told_apart(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert ask("127.0.0.1", port, limit_s=0.2)[0] is Answer.FOREIGN
    assert ask("127.0.0.1", free_port()) == (Answer.NOBODY, "connection refused")


def test_a_host_that_comes_minutes_later_is_waited_for_with_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    simulated = Simulated((0.0, Answer.NOBODY), (100.0, Answer.STORE))
    simulated.wait()
    assert simulated.now_s == 100
    first, *more = capsys.readouterr().err.splitlines()
    assert first == "waited 0.5 min for the first process at n1:29500: connection refused"
    assert len(more) == 2


def test_a_port_of_another_program_is_refused_within_ten_seconds() -> None:
    simulated = Simulated((0.0, Answer.FOREIGN))
    with pytest.raises(
        EngineError, match=r"^n1:29500: something listens there but .*take another$"
    ):
        simulated.wait()
    assert simulated.now_s <= 10


def test_a_host_that_is_slow_to_answer_or_restarts_is_not_refused() -> None:
    slow = Simulated((0.0, Answer.FOREIGN), (4.0, Answer.STORE))
    slow.wait()
    assert 4 <= slow.now_s < 8
    restarted = Simulated((0.0, Answer.FOREIGN), (4.0, Answer.NOBODY), (60.0, Answer.STORE))
    restarted.wait()
    assert 60 <= restarted.now_s < 62


def test_a_host_that_never_comes_is_one_line() -> None:
    with pytest.raises(EngineError, match="did not start within 30 min: connection refused; start"):
        Simulated((0.0, Answer.NOBODY)).wait()


def test_the_other_machines_say_that_the_port_is_taken(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "is_own", lambda host: False)
    monkeypatch.setattr(rendezvous, "_ANSWER_S", 2.0)
    with pytest.raises(
        EngineError,
        match=r"another program uses the port, .*--rdzv-endpoint with "
        r"a",
    ):
        agent.launch(["--help"], 1, Nodes(2, 2, f"127.0.0.1:{listener.getsockname()[1]}"))
