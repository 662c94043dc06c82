"""Show samples as the network sees them: the numbers of their plan, and a picture of each."""

from ixt.data.show.grid import draw_grid
from ixt.data.show.samples import Sample, take_samples
from ixt.data.show.table import print_samples

__all__ = ["Sample", "draw_grid", "print_samples", "take_samples"]
