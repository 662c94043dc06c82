"""A pytest plugin, `-p gpu_results`: each test's outcome is in a file as soon as it is known.

So a run of the tests that is ended loses nothing. The file is named by IXT_GPU_RESULTS.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a test by its call, or by what kept it from being called."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # the controller gets all reports
    if report.when != "call" and report.outcome == "passed":
        return
    file = Path(os.environ["IXT_GPU_RESULTS"])
    tests = json.loads(file.read_text()) if file.exists() else {}
    entry: dict[str, object] = {
        "outcome": report.outcome,
        "seconds": round(report.duration, 2),
    }
    if report.outcome == "failed":
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = crash.message if crash else str(report.longrepr)
        entry["reason"] = (reason.strip().splitlines() or ["no reason"])[0][:400]
        entry["text"] = str(report.longrepr)[-6000:]
    tests[report.nodeid] = entry
    part = file.with_suffix(".part")
    part.write_text(json.dumps(tests))
    part.replace(file)
