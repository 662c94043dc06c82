"""What a check of a file or a folder found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ixt.errors import IxtError
from ixt.files import reason


@dataclass(frozen=True)
class Finding:
    """One thing checked."""

    name: str
    """What was checked, e.g. `ledger.jsonl`."""
    ok: bool
    text: str
    """What is there, or what is wrong."""

    def __str__(self) -> str:
        return f"{'ok   ' if self.ok else 'WRONG'}  {self.name}: {self.text}"


def checked(name: str, check: Callable[[], str]) -> Finding:
    """Run a check that returns what is there, and raises where something is wrong."""
    try:
        return Finding(name, True, check())
    except IxtError as error:
        return Finding(name, False, str(error).splitlines()[0])
    except (OSError, ValueError) as error:
        return Finding(name, False, reason(error))
