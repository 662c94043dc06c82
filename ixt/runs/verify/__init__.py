"""Is what lies on the disk what was written? Runs, checkpoints, packed sets and exports."""

from ixt.runs.verify.finding import Finding
from ixt.runs.verify.kinds import verify

__all__ = ["Finding", "verify"]
