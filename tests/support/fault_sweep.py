"""An operation once for each access to the disk that can fail, and what is there afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disk_faults import DiskFaults, Kind, failing

from ixt.cli.app import ADVICE
from ixt.errors import IxtError

KINDS: tuple[Kind, ...] = ("error", "short")
MOST = 20_000
SAMPLE = 13


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


EVERY = [
    pytest.param(SAMPLE, id="sample"),
    pytest.param(1, id="all", marks=pytest.mark.slow),
]


def sweep_accesses(
    prepare_state: Callable[[Path], object],
    operation: Callable[[Path], Any],
    check: Callable[[Path, Any], None],
    tmp_path: Path,
    every: int,
) -> int:
    """Run an operation once for each access that can fail; the number of faults.

    Args:
        prepare_state: makes what the operation starts from, in an empty folder.
        operation: gives its result, or raises.
        check: called with the folder and the result, None where it raised.
        tmp_path: for the folders.
        every: 1 for all accesses, n for every n-th.
    """
    done = 0
    for kind in KINDS:
        for at in range(0, MOST, every):
            root = tmp_path / "disk"
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            prepare_state(root)
            result = None
            with failing(DiskFaults(root, at, kind)) as faults:
                try:
                    result = operation(root)
                except IxtError as error:
                    assert "\n" not in str(error), faults.hit
                    assert str(root) in str(error), (faults.hit, str(error))
                except OSError as error:
                    # The command line makes one line of it.
                    assert error.errno in ADVICE and error.filename, (faults.hit, error)
            if faults.hit is None:
                assert result is not None, "it fails where no access does"
                break
            done += 1
            try:
                check(root, result)
            except Exception as error:
                raise AssertionError(f"{kind} at access {at}, {faults.hit}: {error}") from error
    return done
