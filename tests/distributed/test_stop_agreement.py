"""Two processes over gloo: they stop after the same update, or notice that the other is gone."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from process_group import start_two

from ixt.distributed.signals import STOP_SIGNALS, SignalListener, StopRequest
from ixt.distributed.stop_agreement import StopAgreement

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


def test_signals_are_heard_in_another_thread_and_the_old_descriptor_comes_back() -> None:
    heard: list[int] = []
    with StopRequest():
        listener = SignalListener(heard.append)
        os.kill(os.getpid(), signal.SIGUSR1)
        deadline_s = time.monotonic() + 10
        while not heard and time.monotonic() < deadline_s:
            time.sleep(0.001)
        listener.close()
        listener.close()
    assert heard == [signal.SIGUSR1]
    assert signal.set_wakeup_fd(-1) == -1
