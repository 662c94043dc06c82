"""What the agent makes of its options, and of what its processes left."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from ixt.distributed.launch import rank_file
from ixt.distributed.launch.agent import launch
from ixt.distributed.launch.failures import judge
from ixt.distributed.launch.nodes import Nodes, check_share, parse_nodes, split_endpoint
from ixt.distributed.launch.rank_file import RankReport
from ixt.errors import EngineError

HOST = socket.gethostname()
HAS_IPV6 = Path("/proc/net/if_inet6").exists()


@pytest.mark.parametrize(
    ("options", "nodes"),
    [
        ((None, None, None, None), None),
        ((None, None, None, 2), Nodes(max_restarts=2)),
        (("2", "n1:29400", "x", None), Nodes(2, 2, "n1:29400", "x", 0)),
        (("1:4", "n1", None, None), Nodes(1, 4, "n1", None, 3)),
        (("1:4", "n1", None, 9), Nodes(1, 4, "n1", None, 9)),
    ],
)
def test_options_about_machines(
    options: tuple[str | None, str | None, str | None, int | None], nodes: Nodes | None
) -> None:
    assert parse_nodes(*options) == nodes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("4:1", "n1"), "'4:1' is neither a number nor a range, e.g. 1:4"),
        (("0", "n1"), "'0' is neither"),
        (("two", "n1"), "'two' is neither"),
        (("2", None), "several machines need a rendezvous; on all of them, add --rdzv-endpoint"),
        ((None, "n1"), "for several machines; add --nodes N"),
    ],
)
def test_options_that_contradict_each_other(
    options: tuple[str | None, str | None], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        parse_nodes(*options, None, None)


@pytest.mark.parametrize(
    ("endpoint", "host", "port"),
    [
        ("n1.cluster", "n1.cluster", 29400),
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("[::1]:29500", "::1", 29500),
        ("[2001:db8::7]", "2001:db8::7", 29400),
    ],
)
def test_a_place_to_meet_is_a_host_and_a_port(endpoint: str, host: str, port: int) -> None:
    assert split_endpoint(endpoint) == (host, port)


@pytest.mark.parametrize("endpoint", ["::1", "::1:29400", "[::1", "n1:", "n1:http", "[n1]:80", ""])
def test_what_could_mean_several_places_is_refused(endpoint: str) -> None:
    with pytest.raises(EngineError, match=f"{re.escape(repr(endpoint))} is not HOST:PORT; write"):
        split_endpoint(endpoint)


@pytest.mark.skipif(not HAS_IPV6, reason="needs IPv6 on the loopback")
def test_processes_meet_at_an_ipv6_address(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        port = probe.getsockname()[1]
    assert launch(["--help"], 2, Nodes(1, 1, f"[::1]:{port}")) == 0
    assert capfd.readouterr().out.count("Usage: ") == 2


def test_every_possible_number_of_machines_must_share_an_update_evenly() -> None:
    check_share(8, 2, Nodes(1, 2))
    check_share(8, 2, Nodes(4, 4))
    with pytest.raises(
        EngineError,
        match=r"8 micro-batches .* by 6 processes \(3 machines with 2 each\); .* fit: 1, 2, 4",
    ):
        check_share(8, 2, Nodes(1, 4))


def left(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    local_rank: int,
    step: int | None,
    ending: RankReport | None,
) -> None:
    """Be a rank for a moment: note a step and leave a word."""
    monkeypatch.setenv(rank_file.FOLDER, str(folder))
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    rank_file.begin()
    if step is not None:
        rank_file.note_step(step)
    if ending is not None:
        rank_file.leave_report(ending)
    monkeypatch.setattr(rank_file._Own, "file", None)
    monkeypatch.setattr(rank_file._Own, "step", None)


def failed(*codes: int) -> dict[int, ProcessFailure]:
    return {rank: ProcessFailure(rank, os.getpid(), code, "") for rank, code in enumerate(codes)}


def test_a_mistake_met_by_all_ranks_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in range(3):
        left(tmp_path, monkeypatch, rank, None, RankReport(2, "optim.name: no such optimizer"))
    verdict = judge(tmp_path, failed(2, 2, 2))
    assert (verdict.status, verdict.message) == (2, "optim.name: no such optimizer")


def test_a_stop_on_request_keeps_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in range(2):
        left(tmp_path, monkeypatch, rank, 9, RankReport(143, "stopped after step 9"))
    assert judge(tmp_path, failed(143, 143)).status == 143


def test_the_killed_rank_is_named_and_not_those_that_missed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = RankReport(1, "another process is gone", because_of_another=True)
    for rank, ending in enumerate((lost, lost, None, lost)):
        left(tmp_path, monkeypatch, rank, 57, ending)
    verdict = judge(tmp_path, failed(1, 1, -signal.SIGKILL, 1))
    assert verdict.status == 137
    assert verdict.message == (
        f"rank 2 on {HOST}, after step 57: killed by SIGKILL "
        "(the kernel does so when memory runs out)"
    )


def test_the_rank_that_raised_is_named_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = RankReport(1, "another process is gone", because_of_another=True)
    left(tmp_path, monkeypatch, 0, 4, lost)
    left(
        tmp_path, monkeypatch, 1, 3, RankReport(1, "ZeroDivisionError: by zero", trace="Traceback")
    )
    verdict = judge(tmp_path, failed(1, 1))
    assert verdict.message == f"rank 1 on {HOST}, after step 3: ZeroDivisionError: by zero"
    assert (verdict.status, verdict.trace) == (1, "Traceback")


def test_only_other_machines_know_the_cause_where_all_ranks_missed_somebody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left(tmp_path, monkeypatch, 0, None, RankReport(1, "another process is gone", True))
    message = judge(tmp_path, failed(1)).message
    assert message == f"rank 0 on {HOST}, before the first step: another process is gone"


def test_the_word_of_a_process_before_a_restart_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left(tmp_path, monkeypatch, 0, 5, RankReport(1, "of old"))
    newer = {0: ProcessFailure(0, os.getpid() + 1, 3, "")}
    assert judge(tmp_path, newer).message.endswith(
        "before the first step: ended with status 3 and without a report"
    )
    monkeypatch.setenv(rank_file.FOLDER, str(tmp_path))
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert rank_file.begin() == "after step 5: of old"
    assert rank_file.report_of(tmp_path, 0) is None
    monkeypatch.setattr(rank_file._Own, "file", None)


def test_a_word_that_was_cut_off_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left(tmp_path, monkeypatch, 0, 5, RankReport(1, "never finished"))
    (file,) = tmp_path.glob("*.end")
    for text in ("", file.read_text()[:20]):
        file.write_text(text)
        message = judge(tmp_path, failed(-signal.SIGTERM)).message
        assert message == f"rank 0 on {HOST}, after step 5: killed by SIGTERM"


def test_the_last_step_outlives_a_sigkill(tmp_path: Path) -> None:
    code = (
        "import os; from ixt.distributed.launch import rank_file; rank_file.begin(); "
        "[rank_file.note_step(n) for n in range(1000)]; os.kill(os.getpid(), 9)"
    )
    env = {**os.environ, rank_file.FOLDER: str(tmp_path), "LOCAL_RANK": "3"}
    with subprocess.Popen([sys.executable, "-c", code], env=env) as process:
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert rank_file.step_of(tmp_path, 3, process.pid) == 999


def test_a_neighbour_that_is_not_reaped_yet_counts_as_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(rank_file.FOLDER, str(tmp_path))
    monkeypatch.setenv("LOCAL_RANK", "1")
    code = "from ixt.distributed.launch import rank_file; rank_file.begin(); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not rank_file.a_neighbour_died()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie
        assert rank_file.a_neighbour_died()
