"""A bar per layout and precision: a card per model, training beside inference.

These are plain elements of the page, not drawings, so they take any width and its fonts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import get_args

from ixt.bench.report.entries import WORDS, Entry, best, rate_text, setting
from ixt.bench.report.text import PAPER_BATCH, published_rate
from ixt.bench.results import Mode

_KEY = (
    '<p class="key"><span class="fill-1"></span>NCHW, contiguous'
    '<span class="fill-2"></span>NHWC, channels_last{paper}</p>'
)
_OFF_SCALE = 4  # times the longest own bar: a longer one of the paper would make dots of them
_PAPER_KEY = '<span class="published"></span>the paper, one A100, TF32, batch 128'


def bar_cards(entries: Sequence[Entry]) -> str:
    """A card per model and image size; the fastest bar of each mode is bold."""
    groups: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.row.model, entry.row.image_size), []).append(entry)
    several = len({entry.source.label for entry in entries}) > 1
    cards = "".join(
        f'<article class="card"><h3>{escape(model)} <small>{size} px</small></h3>'
        f'<div class="modes">{_modes(group, several)}</div></article>'
        for (model, size), group in groups.items()
    )
    published = any(published_rate(entry.row) for entry in entries)
    key = _KEY.format(paper=_PAPER_KEY if published else "")
    return f'{key}<div class="models">{cards}</div>'


def _modes(group: Sequence[Entry], several: bool) -> str:
    parts = []
    for mode in get_args(Mode):
        of_mode = [entry for entry in group if entry.row.mode == mode]
        if of_mode:
            parts.append(_bars(of_mode, several))
    return "".join(parts)


def _bars(group: Sequence[Entry], several: bool) -> str:
    """One mode's bars, at the batch size that most settings have."""
    batch = _shared_batch(group)
    bars = [entry for entry in group if entry.row.batch_size == batch]
    first, fastest, published = bars[0].row, best(bars), published_rate(bars[0].row)
    base = {entry.source.label: entry.rate for entry in reversed(bars)}
    longest = max(entry.row.p95_images_per_s or entry.rate for entry in bars)
    if published is not None and published < _OFF_SCALE * longest:
        longest = max(longest, published)
    lines = [
        _bar(entry, longest, base[entry.source.label], several, bold=entry is fastest)
        for entry in bars
    ]
    if published is not None:
        lines.append(_published(published, longest, fastest.rate))
    alt = f"{first.model}, {WORDS[first.mode]}, images per second: " + "; ".join(
        f"{_label(entry, several)} {entry.rate:.0f}" for entry in bars
    )
    return (
        f'<div class="bars" role="img" aria-label="{escape(alt)}">'
        f"<h4>{WORDS[first.mode]} <small>batch {batch}</small></h4>{''.join(lines)}</div>"
    )


def _bar(entry: Entry, longest: float, base: float, several: bool, *, bold: bool) -> str:
    row, label = entry.row, _label(entry, several)
    low, high = row.p5_images_per_s or entry.rate, row.p95_images_per_s or entry.rate
    fill = 1 if row.layout == "contiguous" else 2
    return (
        f'<div class="bar tip{" fastest" if bold else ""}" '
        f'title="{escape(f"{label}: {rate_text(row)}")}">'
        f'<span>{escape(label)}</span><span class="track">'
        f'<i class="fill-{fill}" style="width:{entry.rate / longest:.2%}"></i>'
        f'<i class="spread" style="left:{low / longest:.2%};width:{(high - low) / longest:.2%}">'
        f"</i></span><b>{_number(entry.rate)}</b><small>{entry.rate / base:.2f}x</small></div>"
    )


def _published(rate: int, longest: float, fastest: float) -> str:
    text = f"the paper, one A100, TF32, batch 128: {rate:,} img/s; the fastest bar is "
    text += f"{fastest / rate:.3g} times it"
    beyond = " beyond" if rate > longest else ""
    return (
        f'<div class="bar paper tip" title="{escape(text)}"><span>paper</span>'
        f'<span class="track"><i class="published{beyond}" '
        f'style="width:{min(1, rate / longest):.2%}"></i></span>'
        f"<b>{rate:,}</b><small></small></div>"
    )


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _label(entry: Entry, several: bool) -> str:
    return f"{entry.source.label}: {setting(entry.row)}" if several else setting(entry.row)


def _shared_batch(group: Sequence[Entry]) -> int:
    """The batch size that most settings have; of several such the paper's, else the fastest."""
    counts = Counter(entry.row.batch_size for entry in group)
    common = [entry for entry in group if counts[entry.row.batch_size] == max(counts.values())]
    if published_rate(group[0].row) and PAPER_BATCH in {e.row.batch_size for e in common}:
        return PAPER_BATCH
    return best(common).row.batch_size


def speedup(entries: Sequence[Entry], name: str, slow: object, fast: object) -> list[float]:
    """Ratios of rates between pairs of rows that differ in one field only.

    Args:
        entries: measured rows.
        name: the field.
        slow: its value below the line.
        fast: its value above.
    """
    rates: dict[tuple[object, ...], dict[object, float]] = {}
    for entry in entries:
        cell = entry.row.cell.model_dump()
        value = cell.pop(name)
        rates.setdefault((entry.source.label, *cell.values()), {})[value] = entry.rate
    return [pair[fast] / pair[slow] for pair in rates.values() if {slow, fast} <= pair.keys()]
