"""`ixt plan`: what a run will do, need and cost, before it takes a GPU."""

from ixt.plan.build import Plan, Target, make_plan
from ixt.plan.curve import write_curve
from ixt.plan.show import plan_data, print_plan

__all__ = ["Plan", "Target", "make_plan", "plan_data", "print_plan", "write_curve"]
