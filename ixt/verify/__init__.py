"""Is what lies on the disk what was written? Runs, checkpoints, packed sets and exports."""

from ixt.verify.finding import Finding
from ixt.verify.kinds import verify

__all__ = ["Finding", "verify"]
