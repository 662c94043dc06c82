from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest

from ixt.bench.doctor import software
from ixt.bench.doctor.software import (
    check_commit,
    check_compiler,
    check_dali,
    check_packages,
    check_python,
)

WANTED = {
    "ixt": ["torch<3,>=2.11", "torchvision<0.30", "gone>=1", 'extra-only>=1; extra == "dali"'],
    "torchvision": ["torch==2.14.1", 'pytest<1; extra == "test"'],
}
INSTALLED = {"torch": "2.14.1", "torchvision": "0.29.1", "gone": "1.5", "pytest": "8.4"}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Installed packages to change: name to version."""
    installed = dict(INSTALLED)
    monkeypatch.setattr(software, "package_version", installed.get)
    monkeypatch.setattr(software, "requires", lambda name: WANTED.get(name))
    return installed


def test_packages_that_fit_are_named(world: dict[str, str]) -> None:
    result = check_packages()
    assert (result.status, result.value) == ("ok", "torch 2.14.1, torchvision 0.29.1")


def test_a_package_out_of_range_is_a_failure(world: dict[str, str]) -> None:
    world["torchvision"] = "0.31.0"
    result = check_packages()
    assert result.status == "fail"
    assert result.value == "ixt needs torchvision<0.30, 0.31.0 is installed"
    assert result.fix == "pip install 'torchvision<0.30'"


def test_a_missing_package_is_a_failure_and_a_missing_extra_is_not(world: dict[str, str]) -> None:
    del world["gone"]
    result = check_packages()
    assert (result.status, result.value) == ("fail", "ixt needs gone>=1, none is installed")
    world |= {"gone": "1.5", "extra-only": "0.9"}
    assert check_packages().value == "ixt needs extra-only>=1, 0.9 is installed"


def test_packages_that_do_not_fit_each_other_are_a_failure(world: dict[str, str]) -> None:
    world["torch"] = "2.12.0"
    result = check_packages()
    assert result.value == "torchvision needs torch==2.14.1, 2.12.0 is installed"
    assert result.fix == "pip install 'torch==2.14.1'"


def test_dali_must_be_of_torchs_cuda(world: dict[str, str]) -> None:
    assert check_dali("13.0").status == "ok"
    world["nvidia-dali-cuda120"] = "2.4.0"
    assert check_dali("12.8").status == "ok"
    mixed = check_dali("13.0")
    assert mixed.status == "warn"
    assert "nvidia-dali-cuda130" in mixed.fix
    world["nvidia-dali-cuda130"] = "2.4.0"
    assert check_dali("13.0").status == "fail"


def test_python_is_held_against_the_declared_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "metadata", lambda name: {"Requires-Python": ">=3.11"})
    assert check_python().status == "ok"
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.1")
    result = check_python()
    assert (result.status, result.value) == ("fail", "3.9.1, ixt needs >=3.11")


def test_a_checkout_without_metadata_is_only_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(software, "metadata", missing)
    monkeypatch.setattr(software, "requires", missing)
    assert {check_python().status, check_packages().status} == {"warn"}


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    result = check_compiler()
    assert (result.status, result.value) == ("warn", "no-such-compiler: not found")
    assert "install gcc" in result.fix


@pytest.mark.parametrize(
    ("commit", "status", "value"),
    [
        ("a" * 40, "ok", "a" * 12),
        ("a" * 40 + "+", "warn", "a" * 12 + " with local changes"),
        (None, "ok", "an installed package, no checkout"),
    ],
)
def test_local_changes_are_noted(
    commit: str | None, status: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software, "describe_machine", lambda: {"git_commit": commit})
    result = check_commit()
    assert (result.status, result.value) == (status, value)


def test_this_installation_fits() -> None:
    result = check_packages()
    assert result.status in ("ok", "warn"), result.value
