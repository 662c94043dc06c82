"""Files that only grow by rows, JSON objects; a checkpoint vouches for their beginning."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ixt.errors import CheckpointError
from ixt.files import reason, replace_text

METRICS = "metrics.jsonl"
LEDGER = "ledger.jsonl"

Record = Mapping[str, Any]
"""rows, bytes and sha256 of the beginning of a file."""


class RowFile:
    """Appends rows, and keeps count and hash of all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = self._bytes = 0
        self._hash = hashlib.sha256()

    def open(self, step: int, evaluated: bool, record: Record | None) -> str | None:
        """Keep the rows up to a step and forget those behind it.

        Where the file is not what a checkpoint vouches for, it is renamed and a new one begins:
        rows that somebody changed do not pass for those of the run.

        Without `evaluated`, an evaluation of this step is forgotten too. `record` is what `record`
        gave at that step; None keeps every row that can be read.

        Returns:
            One line about what was wrong; None where all is well.

        Raises:
            CheckpointError: it cannot be written.
        """
        try:
            damage = find_damage(self.path, record)
            if damage is not None:
                aside = _free_name(self.path)
                if os.path.lexists(self.path):
                    self.path.rename(aside)
                    damage += f"; the old file is kept as {aside.name}"
                damage = f"{self.path}: {damage}; a new file begins after step {step}"
            elif self.path.exists():
                content = self.path.read_bytes()
                if record is not None:
                    kept = content[: record["bytes"]].decode()
                else:
                    kept = "".join(_rows_up_to(content, step, evaluated))
                replace_text(self.path, kept)
                self._count(kept)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be written ({reason(error)}); make room or allow writing, "
                "then resume"
            ) from error
        return damage

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows.

        Raises:
            CheckpointError: they cannot be written.
        """
        text = "".join(json.dumps(row) + "\n" for row in rows)
        try:
            with self.path.open("a") as stream:
                stream.write(text)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be written ({reason(error)}); the checkpoints are intact; "
                "make room, then continue with --resume"
            ) from error
        self._count(text)

    def record(self) -> Record:
        """What a checkpoint keeps of the file as it is now."""
        return {"rows": self._rows, "bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def _count(self, text: str) -> None:
        content = text.encode()
        self._rows += text.count("\n")
        self._bytes += len(content)
        self._hash.update(content)


def find_damage(path: Path, record: Record | None) -> str | None:
    """What is wrong with the rows that a checkpoint vouches for, in words; None for nothing.

    Rows behind them are those of updates since; they may be cut off.

    `record` is what the checkpoint keeps of it; None where it keeps nothing.

    Raises:
        OSError: it cannot be read.
    """
    expected = record["rows"] if record is not None else 0
    if not os.path.lexists(path):
        return f"is missing; it had {expected:,} rows" if expected else None
    if not path.is_file():
        return "is not a file"
    if record is None:
        return None
    content = path.read_bytes()
    if hashlib.sha256(content[: record["bytes"]]).hexdigest() == record["sha256"]:
        return None
    found = first_gap(content.splitlines()[:expected], dense=path.name == LEDGER)
    count = content.count(b"\n")
    if found is None and count < expected:
        found = f"ends after {count:,} of {expected:,} rows"
    return found or f"a row of the first {expected:,} was changed"


def first_gap(lines: Iterable[bytes], dense: bool) -> str | None:
    """Where rows do not follow each other, in words; None where they do.

    `dense`: there is a row for each step, from 1 on.
    """
    last = 0
    for number, line in enumerate(lines, 1):
        row = read_row(line)
        if row is None:
            return f"line {number:,} is not a row"
        step = row["step"]
        if dense and step != last + 1:
            return f"line {number:,} is of step {step:,}, expected was {last + 1:,}"
        if step < last or (step == last and row.get("kind") != "epoch"):
            return f"line {number:,} is of step {step:,}, after step {last:,}"
        last = step
    return None


def read_row(line: bytes | str) -> dict[str, Any] | None:
    """A row that has a step; None for anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _rows_up_to(content: bytes, step: int, evaluated: bool) -> Iterator[str]:
    """The rows up to a step, without the half-written ones of a killed process."""
    for line in content.decode(errors="replace").splitlines():
        row = read_row(line)
        if row is None or row["step"] > step:
            continue
        if evaluated or row["step"] < step or row.get("kind") != "epoch":
            yield line + "\n"


def _free_name(path: Path) -> Path:
    numbers = range(1, 1_000_000)
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in numbers)
    return next(name for name in names if not os.path.lexists(name))
