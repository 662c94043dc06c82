"""Show samples as the network sees them: the numbers of their plan, and a picture of each."""

from ixt.data.show.grid import draw_grid
from ixt.data.show.samples import Sample, eval_samples, train_samples
from ixt.data.show.table import print_samples

__all__ = ["Sample", "draw_grid", "eval_samples", "print_samples", "train_samples"]
