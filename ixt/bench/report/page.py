"""A benchmark as one HTML file with charts, complete in itself."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ixt import __version__
from ixt.bench.report.charts import accuracy_charts, batch_charts, unplaced
from ixt.bench.report.figures import (
    MODES,
    PAPER_BATCH,
    WORDS,
    Entry,
    Source,
    best,
    measured,
    published_rate,
    results_table,
)
from ixt.bench.report.notes import all_remarks, machine_terms
from ixt.bench.report.peers import peer_lines
from ixt.bench.report.roofline_charts import roofline_charts
from ixt.bench.report.template import page_environment
from ixt.bench.results import group_by
from ixt.errors import EngineError

_OFF_SCALE = 4  # times the longest own bar: a longer one of the paper would make dots of them


def page_html(sources: Sequence[Source], device: str | None = None) -> str:
    """The whole page.

    `device` is a name or YAML file for the roofline; None takes the measured one's.

    Raises:
        EngineError: nothing was measured, matplotlib is missing, or the device is not known.
    """
    entries = measured(sources)
    if not entries:
        raise EngineError("nothing to show: no cell of the results has a figure, only errors")
    packages = sources[0].report.machine.get("packages") or {}
    roofs, why = roofline_charts(entries, device)
    return (
        page_environment(__file__)
        .get_template("page.html")
        .render(
            version=__version__,
            models=_join([entry.row.model for entry in entries]),
            devices=_join([source.device for source in sources]),
            num_cells=sum(len(source.report.rows) for source in sources),
            num_windows=sum(len(timing.rates) for entry in entries for timing in entry.row.rounds),
            torch=packages.get("torch", "unknown"),
            tiles=_tiles(entries),
            remarks=all_remarks(sources),
            accuracy=accuracy_charts(entries),
            unplaced=unplaced(entries),
            cards=bar_cards(entries),
            has_published=any(published_rate(entry.row) for entry in entries),
            batches=batch_charts(entries),
            roofs=roofs,
            why_no_roof=why,
            table=results_table(sources),
            words=WORDS,
            peers=peer_lines(entries),
            machines=[(source.label, machine_terms(source)) for source in sources],
        )
    )


def _tiles(entries: list[Entry]) -> list[tuple[str, str]]:
    """The headline: a number, and what it is."""
    tiles = []
    for mode, group in group_by(entries, lambda entry: entry.row.mode).items():
        top = best(group)
        rate = f"{top.rate:,.0f}" if top.rate >= 100 else f"{top.rate:.1f}"
        tiles.append((rate, f"img/s, fastest {MODES[mode]}: {top.row.model}, {top.row.setting}"))
    gains = (
        ("layout", "contiguous", "channels_last", "channels_last over contiguous"),
        ("compile", False, True, "compiled over eager"),
    )
    for name, slow, fast, words in gains:
        ratios = _ratios(entries, name, slow, fast)
        if ratios:
            text = f"{words}, geometric mean of {len(ratios)} pairs"
            tiles.append((f"{statistics.geometric_mean(ratios):.2f}x", text))
    return tiles


def _ratios(entries: Sequence[Entry], name: str, slow: object, fast: object) -> list[float]:
    """Rates with one value of a field over those with another, all else alike."""
    rates: dict[tuple[object, ...], dict[object, float]] = {}
    for entry in entries:
        cell = entry.row.cell.model_dump()
        value = cell.pop(name)
        rates.setdefault((entry.source.label, *cell.values()), {})[value] = entry.rate
    return [pair[fast] / pair[slow] for pair in rates.values() if {slow, fast} <= pair.keys()]


def _join(names: Sequence[str]) -> str:
    """a, b and c, each once; many models are counted."""
    names = list(dict.fromkeys(names))
    if len(names) > 3:
        return f"{len(names)} models"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


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
