"""Two processes over gloo: they stop after the same update, or notice that the other is gone."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from process_group import start_two

from ixt.distributed.signals import STOP_SIGNALS, Received, StopRequest
from ixt.distributed.stop_agreement import StopAgreement, signal_of, vote

# Counts "updates" until all agree; the sleep differs, so that the ranks are never in step.
LOOP = """
import os, time
import torch.distributed as dist
from ixt.distributed.stop_agreement import StopAgreement
from ixt.errors import PeerLost
from ixt.distributed.launch import rank_file, worker
from ixt.distributed.signals import StopRequest
worker.begin()
dist.init_process_group("gloo")
with StopRequest() as request, StopAgreement(request, patience_s=1) as stop:
    for step in range(1, 10_000):
        time.sleep(0.001 * (1 + 4 * dist.get_rank() * (step % 3)))
        rank_file.note_step(step)
        try:
            signum = stop.reached()
        except PeerLost as error:
            worker.fail(error)
        if step == 3:
            print("running", flush=True)
        if signum:
            print("stopped", step, signum)
            break
        if os.environ.get("STUCK") == os.environ["RANK"] and request.signum:
            dist.barrier()  # the other one never comes
"""


@contextmanager
def two_processes(**variables: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes in their loop."""
    processes = start_two("-c", LOOP, **variables)
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "running\n":
                raise AssertionError(process.communicate()[1])
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_signal_to_one_process_stops_both_after_the_same_update() -> None:
    with two_processes() as processes:
        time.sleep(0.1)
        processes[1].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=30)[0] for process in processes]
    assert said[0] == said[1]
    assert re.fullmatch(r"stopped \d+ 15\n", said[0])


def test_a_killed_process_is_noticed_at_once_in_one_line() -> None:
    with two_processes() as processes:
        processes[0].kill()
        start_s = time.monotonic()
        _, said = processes[1].communicate(timeout=30)
        assert time.monotonic() - start_s < 5
    assert processes[1].returncode == 1
    line = rf"rank 1 on {socket.gethostname()}, after step \d+: another process is gone: .*\n"
    assert re.fullmatch(line, said)


@pytest.mark.slow
def test_a_process_that_waits_for_another_in_vain_leaves_in_time() -> None:
    with two_processes(STUCK="1") as processes:
        os.kill(processes[0].pid, signal.SIGSTOP)  # alive, and its connections stay open
        processes[1].send_signal(signal.SIGTERM)
        start_s = time.monotonic()
        _, said = processes[1].communicate(timeout=30)
        assert 0.9 < time.monotonic() - start_s < 10
    assert processes[1].returncode == 1
    assert "the update did not end within 1 s of SIGTERM; nothing was saved after" in said


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_single_process_stops_after_the_update_it_was_asked_in(number: signal.Signals) -> None:
    with StopRequest() as request, StopAgreement(request) as stop:
        assert stop.reached() == 0
        os.kill(os.getpid(), number)
        assert stop.reached() == number


def test_a_second_interrupt_raises() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_signals_are_received_in_another_thread_and_the_old_descriptor_comes_back() -> None:
    received: list[int] = []
    with StopRequest() as request:
        request.call_with_each(received.append)
        os.kill(os.getpid(), signal.SIGUSR1)
        deadline_s = time.monotonic() + 10
        while not received and time.monotonic() < deadline_s:
            time.sleep(0.001)
    assert received == [signal.SIGUSR1]
    assert signal.set_wakeup_fd(-1) == -1


def test_the_first_signal_counts_also_when_python_learns_of_several_at_once() -> None:
    def send() -> None:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            time.sleep(0.02)

    with StopRequest() as request, StopAgreement(request) as stop:
        sender = threading.Thread(target=send)
        sender.start()
        # While the main thread is in native code signals pile up; Python then takes SIGINT first.
        hashlib.pbkdf2_hmac("sha256", b"x", b"x", 600_000)
        sender.join()
        assert stop.reached() == signal.SIGUSR1
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reached() == signal.SIGUSR1


def test_a_single_interrupt_after_another_signal_still_saves() -> None:
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_nohup_keeps_its_word() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.signum == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_earliest_of_different_signals_counts() -> None:
    times = iter([5.001, 5.0])
    votes = []
    for number in (signal.SIGINT, signal.SIGTERM):
        received = Received(clock=lambda: next(times))
        received.note(number)
        votes.append(vote(received))
    assert signal_of(min(*votes, vote(Received()))) == signal.SIGTERM
    assert signal_of(vote(Received())) == 0
