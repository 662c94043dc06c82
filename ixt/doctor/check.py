"""What a check is, and how checks run: each alone, and none for too long."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Result:
    """What a check found."""

    status: Status
    """ok; warn: training works, but worse than it could; fail: it will break."""
    value: str
    """What was measured."""
    fix: str = ""
    """What to do about it, and how; empty where all is well."""
    name: str = ""
    """Of the check."""
    host: str = ""
    """The machine it ran on, where there are several."""
    seconds: float = 0.0
    """It took."""


@dataclass(frozen=True)
class Check:
    """One question to the machine."""

    name: str
    run: Callable[[], Result]
    limit_s: float = 10.0
    """It is given up after this, and counts as failing."""


def run_checks(checks: Sequence[Check], budget_s: float = 45.0) -> list[Result]:
    """Run checks one after another; one that raises or hangs fails, and the others go on.

    Args:
        checks: in their order.
        budget_s: for all of them; when it is used up, each has one second left.
    """
    end_s = time.perf_counter() + budget_s
    return [
        _run(check, min(check.limit_s, max(1.0, end_s - time.perf_counter()))) for check in checks
    ]


def _run(check: Check, limit_s: float) -> Result:
    found: SimpleQueue[Result] = SimpleQueue()

    def work() -> None:
        try:
            found.put(check.run())
        except Exception as error:  # a check that breaks has found something
            reason = (str(error).strip() or "no message").splitlines()[0]
            fix = "see what the message names; if the machine is sound, report it"
            found.put(Result("fail", f"the check broke: {type(error).__name__}: {reason}", fix))

    start_s = time.perf_counter()
    # A daemon: a hanging driver or file system must not keep the program from ending.
    Thread(target=work, name=check.name, daemon=True).start()
    try:
        result = found.get(timeout=limit_s)
    except Empty:
        result = Result(
            "fail",
            f"no answer in {limit_s:.3g} s",
            "the machine is overloaded, or a driver, disk or network hangs; look at dmesg and top",
        )
    return replace(result, name=check.name, seconds=time.perf_counter() - start_s)
