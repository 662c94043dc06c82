"""What the page's bars show; how they look is in `page.html`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ixt.bench.report.figures import MODES, PAPER_BATCH, Entry, best, published_rate
from ixt.bench.results import group_by

_OFF_SCALE = 4  # times the longest own bar: a longer one of the paper would make dots of them


@dataclass(frozen=True)
class Bars:
    """The bars of one model in one mode, at the batch size that most settings have."""

    entries: list[Entry]

    @property
    def mode(self) -> str:
        """What was measured, in words."""
        return MODES[self.entries[0].row.mode]

    @property
    def fastest(self) -> Entry:
        """The longest bar."""
        return best(self.entries)

    @property
    def published(self) -> int | None:
        """The paper's rate."""
        return published_rate(self.entries[0].row)

    @property
    def longest(self) -> float:
        """Rate that fills the width."""
        longest = max(entry.row.p95_images_per_s or entry.rate for entry in self.entries)
        published = self.published or 0
        return max(longest, published) if published < _OFF_SCALE * longest else longest

    @property
    def alt(self) -> str:
        """What they show, for those who do not see it."""
        rates = "; ".join(f"{entry.label} {entry.rate:.0f}" for entry in self.entries)
        return f"{self.fastest.row.model}, {self.mode}, images per second: {rates}"


def bar_cards(entries: Sequence[Entry]) -> list[tuple[str, int, list[Bars]]]:
    """Model, image size, and the bars of each mode."""
    cards = group_by(entries, lambda entry: (entry.row.model, entry.row.image_size))
    return [
        (*what, [_bars(group) for group in group_by(card, lambda e: e.row.mode).values()])
        for what, card in cards.items()
    ]


def _bars(group: Sequence[Entry]) -> Bars:
    """Those of the batch size that most have; of several such the paper's, else the fastest."""
    counts = Counter(entry.row.batch_size for entry in group)
    common = [entry for entry in group if counts[entry.row.batch_size] == max(counts.values())]
    batch = best(common).row.batch_size
    if published_rate(group[0].row) and counts[PAPER_BATCH] == max(counts.values()):
        batch = PAPER_BATCH
    return Bars([entry for entry in group if entry.row.batch_size == batch])
