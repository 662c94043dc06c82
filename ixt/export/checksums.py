"""Checksums of an export, in the form that `sha256sum --check` reads."""

from __future__ import annotations

from pathlib import Path

from ixt.checkpoint.folder import sha256
from ixt.checkpoint.info import facts_beside
from ixt.errors import ExportError

SUMS = "SHA256SUMS"
"""File of checksums in an exported folder; beside a file it is called `FILE.sha256`."""


def sums_of(export: Path) -> Path:
    """Where the checksums of an export are."""
    return export / SUMS if export.is_dir() else export.with_name(f"{export.name}.sha256")


def write_checksums(export: Path) -> None:
    """Write down the checksums of an exported file and its JSON file, or of a folder's files."""
    beside = [file for file in (export, facts_beside(export)) if file.exists()]
    files = sorted(export.iterdir()) if export.is_dir() else beside
    sums_of(export).write_text("".join(f"{sha256(file)}  {file.name}\n" for file in files))


def verify_checksums(export: Path) -> int:
    """Compare an export with its checksums; the number of files compared.

    Raises:
        ExportError: a file is missing or has changed, or the list is none.
        OSError: a file cannot be read.
    """
    sums = sums_of(export)
    lines = sums.read_text(errors="replace").splitlines()
    for line in lines:
        expected, _, name = line.partition("  ")
        file = sums.with_name(name)
        if len(expected) != 64 or not name or file.parent != sums.parent:
            raise ExportError(f"{sums.name} is damaged: {line[:80]!r} is no line of sha256sum")
        if not file.is_file():
            raise ExportError(f"{name} is missing")
        if sha256(file) != expected:
            raise ExportError(f"{name} does not match its checksum in {sums.name}")
    if not lines:
        raise ExportError(f"{sums.name} is empty")
    return len(lines)
