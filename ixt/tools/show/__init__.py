"""Show samples as the network sees them: the numbers of their plan, and a picture of each."""

from ixt.tools.show.from_loaders import take_samples
from ixt.tools.show.grid import draw_grid
from ixt.tools.show.sample import Sample
from ixt.tools.show.table import print_samples
from ixt.tools.show.tiles import require_png, write_png

__all__ = ["Sample", "draw_grid", "print_samples", "require_png", "take_samples", "write_png"]
