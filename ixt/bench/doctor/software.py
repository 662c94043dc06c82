"""Checks of the installation: Python, versions that fit together, a compiler, the commit."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ixt.bench.doctor.result import Result, fail, judge, warn
from ixt.distributed.machine import describe_machine, package_version

# Named in the report; all requirements are checked.
_SHOWN = ("torch", "torchvision", "timm", "accelerate", "deepspeed", "nvidia-dali-cuda130")
_DALI = "nvidia-dali-cuda"


def check_python(package: str = "ixt") -> Result:
    """The interpreter's version against the range that the package declares."""
    running = platform.python_version()
    try:
        wanted = metadata(package)["Requires-Python"] or ""
    except PackageNotFoundError:
        return _not_installed(running)
    fits = SpecifierSet(wanted).contains(running, prereleases=True)
    return judge(
        f"{running} at {sys.executable}" if fits else f"{running}, {package} needs {wanted}",
        fail(not fits, f"install Python {wanted}"),
    )


def check_packages(package: str = "ixt") -> Result:
    """Installed versions against the ranges of our package, and of these packages on each other."""
    try:
        ours = {canonicalize_name(requirement.name) for requirement, _ in _requirements(package)}
    except PackageNotFoundError:
        return _not_installed("its ranges are unknown")
    misfits: dict[str, str] = {}
    for owner in (package, *sorted(name for name in ours if package_version(name))):
        for requirement, optional in _requirements(owner):
            if owner != package and (optional or canonicalize_name(requirement.name) not in ours):
                continue  # of what others ask, only how our packages fit each other
            found = package_version(requirement.name)
            missing = found is None and owner == package and not optional
            if missing or (found and not requirement.specifier.contains(found, prereleases=True)):
                asked = f"{requirement.name}{requirement.specifier}"
                misfits[f"{owner} needs {asked}, {found or 'none'} is installed"] = f"'{asked}'"
    if misfits:
        fix = f"pip install {' '.join(dict.fromkeys(misfits.values()))}"
        return Result("fail", "; ".join(misfits), fix)
    shown = {name: package_version(name) for name in _SHOWN}
    return Result("ok", ", ".join(f"{name} {found}" for name, found in shown.items() if found))


def check_dali(torch_cuda: str | None = torch.version.cuda) -> Result:
    """Whether DALI is there and built for the CUDA generation of torch."""
    builds = dali_builds()
    if not builds:
        fix = "pip install 'ixt[dali]': one GPU takes more images than 16 cores decode"
        gpu = torch.cuda.is_available()
        return judge("not installed" if gpu else "not needed here", warn(gpu, fix))
    wanted = torch_cuda.split(".")[0] if torch_cuda else ""
    return judge(
        " and ".join(f"{name} {version}" for name, version in builds.items()),
        fail(len(builds) > 1, "uninstall one of them"),
        warn(
            not next(iter(builds)).startswith(f"{_DALI}{wanted}"),
            f"install {_DALI}{wanted}0 beside torch for CUDA {torch_cuda}: "
            "two CUDA runtimes are in the process",
        ),
    )


def dali_builds() -> dict[str, str]:
    """Name and version of each installed build of DALI."""
    names = (f"{_DALI}{digits}" for digits in ("110", "120", "130"))
    return {name: found for name in names if (found := package_version(name))}


def check_compiler() -> Result:
    """The C compiler that Triton and torch.compile call."""
    wanted = os.environ.get("CC")
    found = shutil.which(wanted) if wanted else shutil.which("cc") or shutil.which("gcc")
    return judge(
        found or f"{wanted or 'cc'}: not found",
        warn(not found, "install gcc, or name a C compiler in CC: Triton's kernels need one"),
    )


def check_commit() -> Result:
    """Which source runs, so that results can be traced to it."""
    commit = describe_machine()["git_commit"]
    if commit is None:
        return Result("ok", "an installed package, no checkout")
    changed = commit.endswith("+")
    return judge(
        commit[:12] + (" with local changes" if changed else ""),
        warn(changed, "commit your changes, or a result cannot be traced to its source"),
    )


CHECKS: dict[str, Callable[[], Result]] = {
    "python": check_python,
    "packages": check_packages,
    "dali": check_dali,
    "c compiler": check_compiler,
    "commit": check_commit,
}


def _requirements(package: str) -> Iterator[tuple[Requirement, bool]]:
    """Requirements that apply on this platform, and whether each belongs to an extra only."""
    for text in requires(package) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        applies = marker is None or marker.evaluate({"extra": ""})
        if applies or "extra" in str(marker):
            yield requirement, not applies


def _not_installed(value: str) -> Result:
    return Result("warn", f"ixt is not installed as a package: {value}", "pip install -e .")
