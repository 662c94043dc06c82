from __future__ import annotations

from pathlib import Path

import pytest
from bench_samples import report, row, small_report
from typer.testing import CliRunner, Result

from ixt.bench.results import Report, write_report
from ixt.cli import app


def ixt(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


def kept(folder: Path, name: str, content: Report) -> Path:
    write_report(content, folder / name)
    return folder / name


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return kept(tmp_path, "a.json", small_report())


@pytest.fixture
def slower(tmp_path: Path) -> Path:
    rows = (row(9.0) if r.images_per_s == 10.0 else r for r in small_report().rows)
    return kept(tmp_path, "slower.json", report(*rows))


@pytest.mark.parametrize(
    ("name", "start"), [("x.html", "<!doctype html>"), ("x.csv", "model,mode"), ("x.md", "A <CPU>")]
)
def test_the_suffix_decides_what_is_written(a: Path, name: str, start: str) -> None:
    out = a.parent / "deep" / name
    done = ixt("report", a, "--out", out)
    assert done.exit_code == 0, done.exception
    assert done.output.strip() == str(out)
    assert out.read_text().startswith(start)


def test_a_regression_fails_only_on_request(a: Path, slower: Path) -> None:
    assert ixt("compare", a, slower).exit_code == 0
    done = ixt("compare", a, slower, "--fail-on-regression")
    assert done.exit_code == 1
    assert "1 slower" in done.output
    assert ixt("compare", slower, a, "--fail-on-regression").exit_code == 0
    assert ixt("compare", a, slower, "--fail-on-regression", "--threshold", "20%").exit_code == 0


def test_another_machine_is_a_warning_and_no_regression(a: Path, tmp_path: Path) -> None:
    b = kept(tmp_path, "b.json", report(row(5.0), cpu="another"))
    done = ixt("compare", a, b)
    assert done.exit_code == 0
    assert "warning: A and B differ in cpu (A <CPU> & more; another)" in done.output
    done = ixt("compare", a, b, "--fail-on-regression")
    assert "measure both on one machine" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "A", "--out", "x.pdf"), "--out: x.pdf: the name must end in .html, .csv, .md"),
        (("report", "A", "A"), "the same results file is given twice; give it once"),
        (
            ("report", "A", "A", "--out", "x.csv"),
            "--out: x.csv: shows one file of results, but 2 are given",
        ),
        (("compare", "A", "A", "--threshold", "big"), "--threshold: big: give a share from 0%"),
        (("compare", "A", "A", "--confidence", "20%"), "--confidence: 20%: give a share from 50%"),
    ],
)
def test_wrong_arguments_are_one_line(a: Path, arguments: tuple[str, ...], message: str) -> None:
    done = ixt(*(str(a) if word == "A" else word for word in arguments))
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)
