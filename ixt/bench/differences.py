"""What two benchmarks do not share: machines, software, clocks, protocols."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ixt.bench.results import Report
from ixt.errors import EngineError

# Keys of `describe_machine`. The commit, the command and the time of day may always differ.
_HARDWARE = ("devices", "cpu", "cpu_cores")
_SOFTWARE = ("cuda", "cudnn", "python", "platform")


@dataclass(frozen=True)
class Difference:
    """Something that two benchmarks do not share."""

    what: str
    a: str
    b: str
    decisive: bool
    """Whether it makes a ratio one of machines, protocols or models, not of code."""

    def __str__(self) -> str:
        return f"{self.what} ({self.a}; {self.b})"


def find_differences(a: Report, b: Report) -> list[Difference]:
    """All that could explain a change other than the code; what is decisive comes first."""
    return sorted(_between_reports(a, b), key=lambda difference: not difference.decisive)


def refuse_another_machine(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to continue a benchmark where its first rounds would not compare with the rest.

    Both are of `describe_machine`: of the benchmark, and of this process.

    Raises:
        EngineError: hardware or software differ; the message names all that does.
    """
    found = list(_between_machines(before, now))
    if found:
        raise EngineError(
            f"the results to continue are of another {', '.join(map(str, found))}; give another "
            "--results"
        )


def refuse_decisive(differences: tuple[Difference, ...]) -> None:
    """Refuse to judge code by benchmarks of two machines, protocols or models.

    Raises:
        EngineError: a difference is decisive; the message names all that are.
    """
    decisive = [str(difference) for difference in differences if difference.decisive]
    if decisive:
        raise EngineError(
            f"--fail-on-regression: the benchmarks differ in {', '.join(decisive)}, which says "
            "nothing about the code; measure both on one machine with the same options"
        )


def _between_reports(a: Report, b: Report) -> Iterator[Difference]:
    for name in type(a.protocol).model_fields:
        # More rounds only narrow the interval.
        pair = getattr(a.protocol, name), getattr(b.protocol, name)
        yield from _differ(f"protocol {name}", *pair, decisive=name != "rounds")
    yield from _between_machines(a.machine, b.machine)
    yield from _differ("threads", _threads(a), _threads(b), decisive=True)
    yield from _differ("model", *_changed_models(a, b), decisive=True)
    yield from _differ("driver", _sensor(a, "driver"), _sensor(b, "driver"))
    yield from _differ("power limit in W", *(_sensor(r, "power_limit_w") for r in (a, b)))
    yield from _differ("SM clock in MHz", _sensor(a, "sm_mhz", -2), _sensor(b, "sm_mhz", -2))


def _between_machines(a: dict[str, Any], b: dict[str, Any]) -> Iterator[Difference]:
    for name in (*_HARDWARE, *_SOFTWARE):
        yield from _differ(name, a.get(name), b.get(name), decisive=name in _HARDWARE)
    packages_a, packages_b = a.get("packages", {}), b.get("packages", {})
    for name in sorted({*packages_a, *packages_b}):
        yield from _differ(name, packages_a.get(name), packages_b.get(name))


def _differ(what: str, a: Any, b: Any, decisive: bool = False) -> Iterator[Difference]:
    if a != b:
        yield Difference(what, _text(a), _text(b), decisive)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)


def _threads(report: Report) -> list[int]:
    return sorted({t.checks["threads"] for t in report.timings if "threads" in t.checks})


def _sensor(report: Report, key: str, digits: int | None = None) -> Any:
    """The commonest reading, rounded to 10 ** -digits: small changes are the governor's."""
    values = [r[key] for t in report.timings for r in t.checks.get("readings", []) if key in r]
    rounded = [value if digits is None else round(value, digits) for value in values]
    return Counter(rounded).most_common(1)[0][0] if rounded else None


def _changed_models(a: Report, b: Report) -> tuple[list[str], list[str]]:
    """Models that cost one thing in A and another in B under the same name."""
    costs_a, costs_b = (
        {
            (row.model, row.image_size): f"{row.model} of {row.params} parameters, {row.macs} MACs"
            for row in report.rows
            if row.params
        }
        for report in (a, b)
    )
    changed = [key for key in costs_a if key in costs_b and costs_a[key] != costs_b[key]]
    return [costs_a[key] for key in changed], [costs_b[key] for key in changed]
