"""What a run will do, need and cost, before it takes a GPU: `ixt plan`."""

from ixt.estimate.curve import write_curve
from ixt.estimate.estimate import RunEstimate, Target, estimate_run
from ixt.estimate.text import as_data, print_estimate

__all__ = ["RunEstimate", "Target", "as_data", "estimate_run", "print_estimate", "write_curve"]
