"""Which packages of pyproject.toml are missing or of another version here, and what that costs.

Only the standard library is used: whatever is missing, this runs.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

COSTS = {
    "dependencies": "ixt does not run",
    "dali": "nothing is decoded by DALI: its tests, pixels and rates are not run",
    "deepspeed": "ZeRO is not tried",
    "demo": "photographs cannot be made: data rates and training with a loader are not measured",
    "export": "the ONNX export is not tried",
    "plot": "no charts",
    "dev": "the tests that need a GPU are not run",
}
"""What is lost without a group of packages."""
_OF_DEV = ("pytest", "pytest-xdist", "scikit-image")
_BEHIND = {
    "pydantic": ("annotated-types", "pydantic-core", "typing-inspection"),
    "nvidia-dali-cuda130": (
        *("astunparse", "gast", "libcst", "makefun", "nvtx", "optree", "six"),
        *("nvidia-libnvcomp-cu13", "nvidia-nvimgcodec-cu13"),
    ),
    "deepspeed": ("einops", "hjson", "msgpack", "ninja", "py-cpuinfo", "tqdm"),
}
"""What missing packages need themselves, which cannot be looked up where they are missing."""


@dataclass(frozen=True)
class Misfit:
    """A package that is missing, or whose version is out of range."""

    name: str
    wanted: str
    """The range."""
    found: str | None
    cost: str

    @property
    def text(self) -> str:
        """The name, and of a wrong version both."""
        return self.name if self.found is None else f"{self.name} {self.found} (not {self.wanted})"


def installed(name: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def missing(names: tuple[str, ...]) -> list[str]:
    """Those that are not installed."""
    return [name for name in names if installed(name) is None]


def required() -> tuple[str, ...]:
    """The names without which ixt does not run."""
    return tuple(name for name, _, group in _wanted() if group == "dependencies")


def misfits() -> list[Misfit]:
    """All of them, with what they need in turn."""
    found = []
    for name, wanted, group in _wanted():
        here = installed(name)
        if here is None or not _fits(here, wanted):
            found.append(Misfit(name, wanted, here, COSTS[group]))
        behind = _needs(name) if here else _BEHIND.get(name, ())
        found += [Misfit(n, "any", None, COSTS[group]) for n in missing(tuple(behind))]
    return list({misfit.name: misfit for misfit in reversed(found)}.values())[::-1]


def package_lines() -> list[str]:
    """What is missing or of another version, a line for each cost."""
    found = misfits()
    lines = []
    for cost in dict.fromkeys(misfit.cost for misfit in found):
        for word, absent in (("missing", True), ("another version", False)):
            texts = [m.text for m in found if m.cost == cost and (m.found is None) == absent]
            if texts:
                perhaps = "" if absent else "perhaps "
                lines.append(f"{word}: {', '.join(texts)}: {perhaps}{cost}")
    return lines


def _wanted() -> Iterator[tuple[str, str, str]]:
    """Name, range and group of what the day uses."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"dependencies": project["dependencies"], **project["optional-dependencies"]}
    for group in COSTS:
        for text in groups[group]:
            name, wanted = _split(text)
            if group != "dev" or name in _OF_DEV:
                yield name, wanted, group


def _split(text: str) -> tuple[str, str]:
    match = re.match(r"([A-Za-z0-9._-]+)(\[[^]]*\])?\s*([^;]*)", text)
    assert match is not None
    return match[1].lower().replace("_", "-"), match[3].strip()


def _needs(name: str) -> Iterator[str]:
    """What an installed package needs on Linux whatever its extras; markers are left to pip."""
    for text in requires(name) or ():
        if ";" not in text:
            yield _split(text)[0]


def _fits(found: str, wanted: str) -> bool:
    """Whether a version is in a range; True where that cannot be said."""
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return True
    return SpecifierSet(wanted).contains(found, prereleases=True)
