"""Checksums of weights and exports, in the form that `sha256sum --check` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ixt.checkpoint.folder import sha256
from ixt.checkpoint.info import facts_beside
from ixt.errors import CheckpointError
from ixt.files import reason

SUMS = "SHA256SUMS"
"""File of checksums in an exported folder; beside a file it is called `FILE.sha256`."""

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def sums_of(export: Path) -> Path:
    """Where the checksums of an export are."""
    return export / SUMS if export.is_dir() else export.with_name(f"{export.name}.sha256")


def write_checksums(export: Path, digests: Mapping[str, str]) -> None:
    """Write down the checksums of an export's files.

    `digests`: SHA-256 of each file, by name.
    """
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    sums_of(export).write_text(text)


def verify_checksums(export: Path) -> int:
    """Compare an export with its checksums; the number of files compared.

    Raises:
        CheckpointError: a file is missing or has changed, or the list is none.
        OSError: a file cannot be read.
    """
    sums = sums_of(export)
    lines = sums.read_text(errors="replace").splitlines()
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or sums.with_name(match[2]).parent != sums.parent:
            raise CheckpointError(f"{sums.name} is damaged: {line[:80]!r} is no line of sha256sum")
        file = sums.with_name(match[2])
        if not file.is_file():
            raise CheckpointError(f"{file.name} is missing")
        if sha256(file) != match[1]:
            raise CheckpointError(f"{file.name} does not match its checksum in {sums.name}")
    if not lines:
        raise CheckpointError(f"{sums.name} is empty")
    return len(lines)


def refuse_changed(weights: Path) -> None:
    """Refuse weights, or their settings, that are not what a list of checksums beside them says.

    Files that no list names are taken as they are: weights of other programs have none.

    The list is `x.pth.sha256` beside `x.pth`, or `SHA256SUMS` in its folder.

    Raises:
        CheckpointError: a file has changed, or cannot be read.
    """
    for sums in (sums_of(weights), weights.with_name(SUMS)):
        try:
            text = sums.read_text(errors="replace") if sums.is_file() else ""
            lines = filter(None, map(_LINE.fullmatch, text.splitlines()))
            listed = {line[2]: line[1] for line in lines}
            for file in (weights, facts_beside(weights), weights.with_name("config.json")):
                expected = listed.get(file.name)
                if expected is not None and file.is_file() and sha256(file) != expected:
                    raise CheckpointError(
                        f"{file}: does not match its checksum in {sums.name}; copy or export both "
                        "again"
                    )
        except OSError as error:
            raise CheckpointError(
                f"{error.filename}: cannot be read: {reason(error)}; copy or export it again"
            ) from error
