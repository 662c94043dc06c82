"""`ixt runs` for people and programs, quick to start, and safe beside odd names."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ixt.distributed.run_status import new_status, write_status
from ixt.recipe import Recipe

ODD = "b\n\x1b[31m[red]x"
Status = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path, tiny: Recipe) -> Path:
    """Two runs: one finished, one with an odd name that was stopped."""
    recipe = tiny.model_dump(mode="json")
    for name, status in (
        ("a", new_status("finished", recipe, 5)),
        (ODD, new_status("stopped", recipe, 5, "SIGTERM: stopped\x1b[2J after step 2")),
    ):
        (tmp_path / "runs" / name).mkdir(parents=True)
        write_status(tmp_path / "runs" / name, status)
    return tmp_path / "runs"


def test_a_table_is_printed_from_the_folder_runs(
    folder: Path,
    ixt_status: Status,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder.parent)
    assert ixt_status("runs", "--sort", "name") == 0
    out = capfd.readouterr().out
    assert r"b\n\x1b[31m[red]x" in out and r"stopped: SIGTERM: stopped\x1b[2J after" in out
    assert "\x1b" not in out
    assert "2 of 2" in out and "0 of 2" in out


def test_json_and_csv_hold_the_same_runs(
    folder: Path, ixt_status: Status, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ixt_status("runs", folder, "--json", "--sort", "name") == 0
    rows = json.loads(capfd.readouterr().out)
    assert ixt_status("runs", folder, "--csv", "--sort", "name") == 0
    table = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert [row["name"] for row in rows] == [row["name"] for row in table] == ["a", ODD]
    assert [row["state"] for row in rows] == [row["state"] for row in table]
    assert rows[1]["last_words"] == "SIGTERM: stopped\x1b[2J after step 2"


def test_two_runs_are_shown_side_by_side(
    folder: Path, ixt_status: Status, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ixt_status("runs", folder, "--diff", "a", ODD, "--json") == 0
    rows = {row["what"]: (row["a"], row["b"]) for row in json.loads(capfd.readouterr().out)}
    assert rows["state"] == ("finished", "stopped")
    assert ixt_status("runs", folder, "--diff", "a", ODD) == 0
    assert "\x1b" not in capfd.readouterr().out


def test_no_run_that_fits_is_said_and_no_mistake(
    folder: Path, ixt_status: Status, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ixt_status("runs", folder, "--filter", "state=crashed", "--json") == 0
    done = capfd.readouterr()
    assert json.loads(done.out) == [] and "none of the 2 runs in" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["."], ".: holds no runs; give the folder that holds your runs"),
        (["nowhere"], "nowhere: is not readable (no such file or directory)"),
        (["runs", "--csv", "--json"], "--json and --csv exclude each other"),
        (["runs", "--diff", "a", "zz"], "runs/zz: is no run"),
        (["runs", "--diff", "a", "a", "--sort", "top1"], "--diff compares two named runs"),
        (["runs", "--sort", "x\ny"], r"--sort x\ny: no run has it"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path,
    ixt_status: Status,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(folder.parent)
    assert ixt_status("runs", *words) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line


def test_listing_runs_loads_no_torch(folder: Path) -> None:
    code = (
        f"import sys\nsys.argv = ['ixt', 'runs', {str(folder)!r}]\nfrom ixt.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([n for n in ('torch', 'timm', 'accelerate') if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "finished" in done.stdout
