"""Checks of the installation: Python, versions that fit together, the commit."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ixt.distributed.machine import describe_machine
from ixt.doctor.check import Result
from ixt.pipeline.native.build import BuildError, build

# Named in the report; all requirements are checked.
_SHOWN = ("torch", "torchvision", "timm", "accelerate", "deepspeed", "nvidia-dali-cuda130")
_DALI = "nvidia-dali-cuda"


def check_python(package: str = "ixt") -> Result:
    """The interpreter's version against the range that the package declares."""
    running = platform.python_version()
    try:
        wanted = metadata(package)["Requires-Python"]
    except PackageNotFoundError:
        return _not_installed(running)
    if wanted and not Requirement(f"python{wanted}").specifier.contains(running, prereleases=True):
        return Result("fail", f"{running}, {package} needs {wanted}", f"install Python {wanted}")
    return Result("ok", f"{running} at {sys.executable}")


def check_packages(package: str = "ixt") -> Result:
    """Installed versions against the ranges of our package, and of these packages on each other."""
    try:
        needed = list(_requirements(package))
    except PackageNotFoundError:
        return _not_installed("its ranges are unknown")
    ours: set[str] = {canonicalize_name(requirement.name) for requirement, _ in needed}
    problems = []
    for requirement, optional in needed:
        installed = _installed(requirement.name)
        if installed is None:
            if not optional:
                problems.append((f"{requirement.name} is missing", requirement))
        elif not requirement.specifier.contains(installed, prereleases=True):
            problems.append(
                (f"{requirement.name} {installed} is not {requirement.specifier}", requirement)
            )
    for name in sorted(ours):
        problems += _misfits(name, ours)
    shown = [f"{name} {found}" for name in _SHOWN if (found := _installed(name))]
    if problems:
        texts = dict.fromkeys(text for text, _ in problems)
        asked = dict.fromkeys(f"'{r.name}{r.specifier}'" for _, r in problems)
        return Result("fail", "; ".join(texts), f"pip install {' '.join(asked)}")
    return Result("ok", ", ".join(shown))


def check_dali(torch_cuda: str | None = torch.version.cuda) -> Result:
    """Whether DALI is there and built for the CUDA generation of torch."""
    there = dali_builds()
    gpu = torch.cuda.is_available()
    if not there:
        fix = "pip install 'ixt[dali]': one GPU takes more images than 16 cores decode"
        return Result("warn", "not installed", fix) if gpu else Result("ok", "not needed here")
    if len(there) > 1:
        return Result("fail", f"{' and '.join(there)} are both installed", "uninstall one of them")
    ((name, found),) = there.items()
    generation = name.removeprefix(_DALI)[:2]
    if torch_cuda is not None and torch_cuda.split(".")[0] != generation:
        return Result(
            "warn",
            f"{name} {found} beside torch for CUDA {torch_cuda}",
            f"install nvidia-dali-cuda{torch_cuda.split('.')[0]}0: two CUDA runtimes in a process",
        )
    return Result("ok", f"{name} {found}")


def dali_builds() -> dict[str, str]:
    """Name and version of each installed build of DALI."""
    names = [f"{_DALI}{digits}" for digits in ("110", "120", "130")]
    return {name: found for name in names if (found := _installed(name))}


def check_compiler() -> Result:
    """Whether the C code that decodes JPEGs can be compiled; Triton needs a compiler, too."""
    try:
        build()
    except BuildError as error:
        fix = "install gcc, or name a C compiler in CC; without, JPEGs are slower and Triton fails"
        return Result("warn", str(error), fix)
    return Result("ok", "works; JPEGs are decoded in C")


def check_commit() -> Result:
    """Which source runs, so that results can be traced to it."""
    commit = describe_machine()["git_commit"]
    if commit is None:
        return Result("ok", "an installed package, no checkout")
    if commit.endswith("+"):
        fix = "commit your changes, or a result cannot be traced to its source"
        return Result("warn", f"{commit[:12]} with local changes", fix)
    return Result("ok", commit[:12])


def _requirements(package: str) -> Iterator[tuple[Requirement, bool]]:
    """Requirements that apply on this platform, and whether each belongs to an extra only."""
    for text in requires(package) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            yield requirement, False
        elif "extra" in str(marker):
            yield requirement, True


def _misfits(name: str, ours: set[str]) -> list[tuple[str, Requirement]]:
    """What an installed package asks of others that are installed, and does not get."""
    if _installed(name) is None:
        return []
    problems = []
    for requirement, optional in _requirements(name):
        other = canonicalize_name(requirement.name)
        found = _installed(other)
        if optional or found is None or other not in ours:
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            text = f"{name} needs {requirement.name}{requirement.specifier}, {found} is installed"
            problems.append((text, requirement))
    return problems


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _not_installed(value: str) -> Result:
    return Result("warn", f"ixt is not installed as a package: {value}", "pip install -e .")
