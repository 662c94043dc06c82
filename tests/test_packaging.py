"""What is shipped beside the code exists, agrees with it, and installs where no source tree is."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ixt import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def copied_paths() -> list[str]:
    """What the Dockerfile's COPY lines take from the source tree."""
    lines = [line.split()[1:-1] for line in DOCKERFILE if line.startswith("COPY ")]
    return [path for line in lines for path in line]


def test_the_dockerfile_copies_only_what_exists() -> None:
    assert copied_paths()
    assert [path for path in copied_paths() if not (ROOT / path).exists()] == []


def test_dockerignore_lets_through_what_the_dockerfile_copies() -> None:
    rules = (ROOT / ".dockerignore").read_text().split()
    for path in copied_paths():
        matching = [rule for rule in rules if fnmatch.fnmatch(path, rule.removeprefix("!"))]
        assert matching[-1].startswith("!"), path


def test_the_dockerfile_copies_what_the_build_needs() -> None:
    needed = {"pyproject.toml", "ixt", "recipes", PROJECT["readme"], *PROJECT["license-files"]}
    assert needed <= set(copied_paths())


def test_extras_named_in_dockerfile_makefile_and_readme_exist() -> None:
    texts = [(ROOT / name).read_text() for name in ("Dockerfile", "Makefile", "README.md")]
    named = [extra for text in texts for extra in re.findall(r"'(?:\.|ixt)\[([a-z0-9,]+)\]'", text)]
    extras = {name for group in named for name in group.split(",")}
    assert extras
    assert extras <= set(PROJECT["optional-dependencies"])


def test_the_extra_all_holds_every_extra_for_users() -> None:
    extras = set(PROJECT["optional-dependencies"]) - {"all", "dev"}
    [line] = PROJECT["optional-dependencies"]["all"]
    assert set(re.fullmatch(r"ixt\[(.*)\]", line)[1].split(",")) == extras  # type: ignore[index]


def test_changelog_and_citation_name_the_version() -> None:
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text())
    [(version, date), *_] = re.findall(
        r"^## \[(\d\S*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert (version, date) == (__version__, str(citation["date-released"]))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"


def test_pre_commit_runs_the_checks_of_make_test() -> None:
    config = YAML(typ="safe").load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = {hook["entry"] for repo in config["repos"] for hook in repo["hooks"]}
    makefile = (ROOT / "Makefile").read_text()
    checks = re.search(r"^test: (.*?) +##", makefile, re.MULTILINE)
    assert checks is not None
    assert entries == {f"make {target}" for target in checks[1].split()}


def test_contributing_names_only_files_and_targets_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = set(re.findall(r"`((?:ixt|tests|recipes)/[\w/.]*)`", text))
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    targets = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def run(*words: object, cwd: Path) -> str:
    """Standard output of a command that must succeed; Python sees no source tree."""
    result = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_wheel_trains_in_an_empty_environment(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", cwd=ROOT)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    [source] = (tmp_path / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "ixt/py.typed" in names
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    with tarfile.open(source) as tar:
        assert {"tests", "recipes", "Makefile"} <= {name.split("/")[1] for name in tar.getnames()}

    venv.create(tmp_path / "venv", with_pip=True)
    commands = tmp_path / "venv" / "bin"
    run(commands / "pip", "install", "-q", f"ixt[demo] @ {wheel.as_uri()}", cwd=tmp_path)
    run(commands / "pip", "install", "-q", "--dry-run", "--no-deps", source, cwd=tmp_path)
    assert run(commands / "ixt", "--version", cwd=tmp_path).strip() == f"ixt {__version__}"
    run(commands / "ixt", "data", "demo", "digits", cwd=tmp_path)
    settings = ("schedule.epochs=1", "schedule.warmup_epochs=0", "data.shots=20")
    changes = [word for setting in settings for word in ("--set", setting)]
    run(commands / "ixt", "train", "demo", "--data", "digits", *changes, cwd=tmp_path)
    assert list(tmp_path.glob("runs/*/checkpoints/step-*"))
