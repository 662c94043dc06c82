from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ixt.bench.doctor import examine as examining
from ixt.bench.doctor import network
from ixt.bench.doctor.examine import run_checks
from ixt.bench.doctor.result import Result, print_results, results_data
from ixt.cli import app


def good() -> Result:
    return Result("ok", "1 thing")


def broken() -> Result:
    raise ValueError("the [disk] is gone\nsecond line")


def test_a_check_that_breaks_or_hangs_fails_and_the_others_continue() -> None:
    released = threading.Event()

    def hanging() -> Result:
        released.wait(30)
        return good()

    start_s = time.perf_counter()
    results = run_checks({"a": broken, "b": hanging, "c": good}, limit_s=0.1)
    released.set()
    assert time.perf_counter() - start_s < 5
    assert [(result.name, result.status) for result in results] == [
        ("a", "fail"),
        ("b", "fail"),
        ("c", "ok"),
    ]
    assert results[0].value == "the check broke: ValueError: the [disk] is gone"
    assert results[1].value == "no answer in 0.1 s"
    assert all(result.fix for result in results[:2])


def test_several_hanging_checks_share_one_budget() -> None:
    released = threading.Event()

    def hanging() -> Result:
        released.wait(30)
        return good()

    results = run_checks({"a": hanging, "b": hanging, "c": good}, 0.2)
    released.set()
    assert [result.status for result in results] == ["fail", "fail", "ok"]
    assert sum(result.seconds for result in results) < 5


def test_the_report_says_what_to_do_and_counts() -> None:
    results = [Result("ok", "1", name="a"), Result("warn", "[2]", "do this", "b", seconds=1.5)]
    stream = io.StringIO()
    print_results(results, Console(file=stream, width=80))
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert lines == [
        "✓  a  1",
        "!  b  [2]",
        "      -> do this",
        "",
        "1 ok, 1 to look at, 0 failing (1.5 s)",
    ]


def test_several_machines_are_distinguished() -> None:
    stream = io.StringIO()
    results = [Result("ok", "1", "", "a", host) for host in ("n1", "n2")]
    print_results(results, Console(file=stream, width=80))
    assert "n1: a" in stream.getvalue()
    assert "n2: a" in stream.getvalue()


@pytest.mark.parametrize(("run", "status"), [(good, 0), (broken, 1)])
def test_the_exit_status_shows_a_failing_machine(
    run: object, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(examining, "_checks", lambda data, run_dir: {"x": run})
    monkeypatch.setattr(network, "check_local_network", good)
    done = CliRunner().invoke(app, ["doctor", "--json", "--run-dir", str(tmp_path)])
    assert done.exit_code == status
    data = json.loads(done.output)
    assert data["fail"] == status
    assert [check["name"] for check in data["checks"]] == ["x", "network"]


def test_results_are_plain_data() -> None:
    data = results_data([good()])
    assert data["format"] == 1
    assert (data["ok"], data["warn"], data["fail"]) == (1, 0, 0)
    assert data["checks"][0]["value"] == "1 thing"
