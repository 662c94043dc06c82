"""`ixt plan`: what a run will do, need and cost, before it takes a GPU."""

from ixt.estimate.build import Plan, Target, make_plan
from ixt.estimate.curve import write_curve
from ixt.estimate.text import plan_data, print_plan

__all__ = ["Plan", "Target", "make_plan", "plan_data", "print_plan", "write_curve"]
