"""The command of a GPU day: steps, interruptions, refusals, and the report of recorded results."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import day
import day_packages
import day_slices
import machine_probe
import psutil
import pytest
import smoke
import step_runner
import training_steps
from smoke_cells import CELLS, Cell
from step_runner import (
    FAILED,
    GOOD,
    INTERRUPTED,
    NOT_RUN,
    OVER_BUDGET,
    Ended,
    Step,
    run_steps,
    write_rows,
)

from ixt.recipe import dump_recipe, find_recipe, load_recipe

HERE = Path(__file__).parent


def shell(name: str, script: str, budget_s: float = 20.0, **more: Any) -> Step:
    return Step(name, ["sh", "-c", script], budget_s, 1.0, **more)


def run(
    tmp_path: Path, *steps: Step, rows: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    rows = {} if rows is None else rows
    kept = tmp_path / "x.json"
    places: dict[str, Any] = {"log": tmp_path / "day.log", "scratch": tmp_path}
    run_steps(steps, rows, lambda: write_rows(kept, rows), **places, **more)
    assert json.loads(kept.read_text()) == rows
    return rows


def test_a_failure_does_not_keep_the_next_step_from_running(tmp_path: Path) -> None:
    rows = run(
        tmp_path,
        shell("bad", "echo it broke; exit 3"),
        Step("absent", ["no-such-program"], 5.0, 1.0),
        shell("good", "echo fine"),
    )
    assert [(row["status"], row["line"]) for row in rows.values()] == [
        (FAILED, "it broke"),
        (FAILED, "no-such-program: cannot be started (No such file or directory)"),
        (GOOD, "fine"),
    ]
    assert "it broke" in (tmp_path / "day.log").read_text()


def test_a_step_over_budget_is_ended_with_its_children_and_keeps_what_it_wrote(
    tmp_path: Path,
) -> None:
    result = tmp_path / "result.json"
    # A child in a process group of its own, which a signal to its parent's does not reach.
    program = f"""
import subprocess, time
from pathlib import Path
child = subprocess.Popen(["sleep", "61"], process_group=0)
Path({str(result)!r}).write_text(str(child.pid))
time.sleep(62)"""
    slow = Step("slow", [sys.executable, "-c", program], 2.0, 1.0, result=result)
    rows = run(tmp_path, slow, shell("next", "echo ran"))
    assert rows["slow"]["status"] == OVER_BUDGET
    assert rows["slow"]["line"].startswith("ended after 2 s")
    assert rows["next"]["status"] == GOOD
    assert ended(rows["slow"]["result"])


def ended(process: int) -> bool:
    """Whether a process is gone, but for being collected by its parent."""
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_good_row_is_kept_and_others_are_repeated(tmp_path: Path) -> None:
    count = tmp_path / "count"
    steps = [shell(n, f"echo {n} >> {count}; exit {s}") for n, s in (("good", 0), ("bad", 1))]
    rows = run(tmp_path, *steps)
    run(tmp_path, *steps, rows=rows)
    assert count.read_text().split() == ["good", "bad", "bad"]
    run(tmp_path, *steps, rows=rows, again=["good"])
    assert count.read_text().split()[3:] == ["good", "bad"]


def test_a_good_step_is_repeated_where_what_it_leaves_is_gone(tmp_path: Path) -> None:
    left = tmp_path / "left"
    step = shell("x", f"echo again >> {left}", leaves=left)
    rows = run(tmp_path, step)
    run(tmp_path, step, rows=rows)
    assert left.read_text() == "again\n"
    left.unlink()
    run(tmp_path, step, rows=rows)
    assert left.exists()


def test_a_step_that_resumes_gets_its_former_result_and_others_do_not(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    script = f"test -e {result} && cat {result} || echo nothing; echo 7 > {result}; exit 1"
    for resumes, again, says in ((True, [], "7"), (True, ["x"], "nothing"), (False, [], "nothing")):
        step = shell("x", script, result=result, resumes=resumes)
        rows = run(tmp_path, step)
        result.unlink()  # another machine
        assert run(tmp_path, step, rows=rows, again=again)["x"]["line"] == says


def test_a_step_that_does_not_fit_into_the_slice_is_not_run(tmp_path: Path) -> None:
    rows = run(tmp_path, Step("long", ["true"], 100.0, 60.0), total_s=50.0)
    assert rows["long"]["status"] == NOT_RUN
    assert rows["long"]["line"] == (
        "50 s of the slice's 50 s are left, it needs 60; give the command again"
    )


def test_a_judge_that_fails_is_a_line(tmp_path: Path) -> None:
    def judge(ended: Ended) -> tuple[str, str]:
        raise KeyError("rows")

    rows = run(tmp_path, shell("odd", "true", judge=judge))
    assert rows["odd"]["line"] == "its results cannot be read: KeyError: 'rows'"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_slice_keeps_its_rows_and_ends_its_processes(
    tmp_path: Path, number: signal.Signals
) -> None:
    program = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from step_runner import *
rows, out = {{}}, Path({str(tmp_path)!r})
steps = [Step(n, ["sh", "-c", c], 50.0, 1.0) for n, c in (
    ("first", "echo done"),
    ("second", "echo $$ > {tmp_path}/pid; exec sleep 60"),
    ("third", "true"))]
with stoppable() as stop:
    def write():
        write_rows(out / "x.json", rows)
    sys.exit(run_steps(steps, rows, write, log=out / "day.log", scratch=out, stop=stop))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    rows = json.loads((tmp_path / "x.json").read_text())
    assert [row["status"] for row in rows.values()] == [GOOD, INTERRUPTED, NOT_RUN]
    assert rows["second"]["line"] == f"stopped by {number.name}; no output"
    assert rows["third"]["line"] == f"the slice was stopped by {number.name}"
    assert ended(int((tmp_path / "pid").read_text()))


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "day.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    done = command("--slice", "a", "--out", file / "out")
    assert done.returncode == 2
    assert done.stderr == (
        f"day.py: {file}/out: is not writable (Not a directory); give another folder\n"
    )


@pytest.mark.parametrize(
    ("former", "says"),
    [
        ({"rehearsal": True, "machine": {"device": None}}, "holds the results of a rehearsal"),
        ({"rehearsal": False, "machine": {"device": "H100"}}, "holds results of H100, and this is"),
        ({}, "has not the keys steps, rehearsal, machine"),
    ],
)
def test_results_of_something_else_are_refused(
    tmp_path: Path, former: dict[str, Any], says: str
) -> None:
    file = tmp_path / "a.json"
    write_rows(file, {"steps": {}, **former} if former else {})
    with pytest.raises(step_runner.Refused, match=says):
        day.open_rows(file, False, {"device": "H200"})


def test_a_step_without_its_packages_or_a_gpu_is_not_run() -> None:
    absent = day.why_not(Step("x", [], 1.0, needs=("numpy", "no-such-package")), None)
    assert absent is not None
    assert absent.line == "needs no-such-package, not installed"
    without = day.why_not(Step("x", [], 1.0), "torch sees no CUDA device: driver too old")
    assert without is not None
    assert (without.status, without.line) == (
        NOT_RUN,
        "needs a GPU: torch sees no CUDA device: driver too old",
    )
    assert day.why_not(Step("x", [], 1.0, on_gpu=False), "no GPU") is None


def test_a_driver_older_than_the_toolkit_is_the_problem_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import warnings

    import torch

    def is_available() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver is too old\nUpdate it", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    assert machine_probe.probe()["problem"] == (
        "torch sees no CUDA device: CUDA initialization: The NVIDIA driver is too old"
    )


def test_every_step_of_a_slice_can_begin_within_its_time(tmp_path: Path) -> None:
    place = day_slices.Place(tmp_path, tmp_path, rehearse=False)
    for name in "abcd":
        steps = day_slices.steps_of(name, place)
        assert sum(step.least_s for step in steps) <= 570
        assert len({step.name for step in steps}) == len(steps)


def test_missing_packages_are_listed_by_what_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"torch": "2.10.0", "pydantic": None, "deepspeed": None}
    monkeypatch.setattr(day_packages, "installed", lambda name: found.get(name, "1.0"))
    monkeypatch.setattr(day_packages, "_needs", lambda name: ())
    monkeypatch.setattr(day_packages, "_fits", lambda have, wanted: have != "2.10.0")
    lines = day_packages.package_lines()
    assert lines == [
        "missing: pydantic: ixt does not run",
        "another version: torch 2.10.0 (not >=2.11,<3): perhaps ixt does not run",
        "missing: deepspeed: ZeRO is not tried",
    ]


def test_failed_tests_are_named_with_their_reason() -> None:
    tests = {
        "tests/a.py::test_one": {"outcome": "passed", "seconds": 1.0},
        "tests/a.py::test_two": {"outcome": "failed", "seconds": 1.0, "reason": "E  1 != 2"},
    }
    assert day_slices.judge_tests(Ended(1, "", tests)) == (
        FAILED,
        "1 passed, 1 failed; test_two: E  1 != 2",
    )
    assert day_slices.judge_tests(Ended(1, "no module", None)) == (
        FAILED,
        "no test has ended: no module",
    )


def losses(*values: float) -> dict[str, Any]:
    return {
        "status": GOOD,
        "line": "trained",
        "losses": [*values, *[1.0] * (smoke.UPDATES - len(values))],
    }


def test_a_cell_is_good_only_within_its_bound_and_if_it_had_an_effect() -> None:
    def verdict(row: dict[str, Any], **changes: Any) -> tuple[str, str]:
        cell = Cell("new", **changes)
        judged = smoke.judge(cell, {"fp32": losses(2.0), "new": row}, rehearsed=False)
        return judged["status"], judged["line"]

    assert verdict(losses(2.001)) == (GOOD, "losses within 5.0e-04 of fp32 (at most 1e-03)")
    assert verdict(losses(2.02)) == (FAILED, "losses within 1.0e-02 of fp32, more than 1e-03")
    assert verdict(losses(2.0, float("nan")))[1].startswith("losses are not finite: [2.0, nan")
    assert verdict({**losses(2.0), "losses": [2.0]}) == (FAILED, "1 losses for 20 updates")
    assert verdict(losses(2.0), rounds_differently=True) == (
        FAILED,
        "no effect: the losses are fp32's, bit for bit",
    )


def test_cheap_cells_come_first_and_those_that_measure_run_alone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def train(cell: Cell, work: Path) -> dict[str, Any]:
        begun.append(cell.name)
        return losses()

    monkeypatch.setattr("smoke.train", train)
    monkeypatch.setattr("smoke.uses", lambda work, budget_s: {})
    kept: dict[str, Any] = {}
    cells = (Cell("alone", alone=True), Cell("dear", budget_s=90), Cell("cheap"), Cell("fp32"))
    smoke.run_all(cells, tmp_path, 1, False, kept.__setitem__)
    assert begun == ["fp32", "cheap", "dear", "alone"]
    assert {row["status"] for row in kept.values()} == {GOOD}


def test_a_cell_does_not_find_the_half_library_of_its_former_try(tmp_path: Path) -> None:
    half = tmp_path / "graph-+-compile.cache" / "kernel.so"
    half.parent.mkdir()
    half.write_text("half")
    status, output = smoke.run_ixt(tmp_path, "graph + compile", "--version", budget_s=60)
    assert status == 0, output
    assert not half.exists()


def test_a_baseline_that_ends_before_the_other_is_judged_alone() -> None:
    row = {"status": GOOD, "losses": [1.0] * smoke.UPDATES}
    judged = smoke.judge(Cell("fp32 accumulated"), {"fp32 accumulated": row}, rehearsed=False)
    assert judged["status"] == GOOD


def test_every_cell_of_the_smoke_matrix_and_every_timed_setting_is_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "smoke.yaml"
    file.write_text(smoke.RECIPE.format(size=96, model=""))
    for cell in CELLS:
        assert (load_recipe(file, list(cell.settings)) != load_recipe(file)) == bool(cell.settings)
    tiny = find_recipe("inceptionnext_tiny")
    timed = {dump_recipe(load_recipe(tiny, list(s))) for s in training_steps.SETTINGS.values()}
    assert len(timed) == len(training_steps.SETTINGS)


def rehearse(name: str, tmp_path: Path) -> Sequence[dict[str, Any]]:
    done = command("--slice", name, "--out", tmp_path / "out", "--rehearse", "--scratch", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows: dict[str, Any] = json.loads((tmp_path / "out" / f"{name}.json").read_text())["steps"]
    return list(rows.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", list("abcd"))
def test_a_slice_can_be_rehearsed(name: str, tmp_path: Path) -> None:
    assert {row["status"] for row in rehearse(name, tmp_path)} <= {GOOD, "needs a GPU"}
    again = command("report", tmp_path / "out")
    assert again.returncode == 0, again.stderr
