"""A bar per layout and precision, one small chart per model and mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ixt.bench.page.entries import WORDS, Entry, best, rate_text, setting
from ixt.bench.page.figures import INK, SERIES, Drawing, finish, new_chart
from ixt.bench.table import published_rate


def bar_charts(entries: Sequence[Entry]) -> list[Drawing]:
    """One chart per model, mode and image size, training before inference."""
    groups: dict[tuple[str, str, int], list[Entry]] = {}
    for entry in entries:
        row = entry.row
        groups.setdefault((row.model, row.mode, row.image_size), []).append(entry)
    return [_chart(group, number) for number, group in enumerate(groups.values())]


def _chart(group: list[Entry], number: int) -> Drawing:
    batch = _shared_batch(group)
    bars = [entry for entry in group if entry.row.batch_size == batch]
    first, fastest = group[0].row, best(bars)
    several = len({entry.source.label for entry in group}) > 1
    base = {entry.source.label: entry.rate for entry in reversed(bars)}
    published = published_rate(first)
    title = f"{first.model}, {WORDS[first.mode]}"
    with new_chart(6.0 if several else 4.5, 0.3 + 0.34 * len(bars)) as chart:
        axes = chart.figure.add_subplot()
        axes.grid(False)
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.tick_params(length=0)
        axes.xaxis.set_visible(False)
        axes.set_yticks(range(len(bars)), [_label(entry, several) for entry in bars])
        axes.invert_yaxis()
        for position, entry in enumerate(bars):
            row = entry.row
            colour = SERIES[0] if row.layout == "contiguous" else SERIES[1]
            (bar,) = axes.barh(position, entry.rate, height=0.72, color=colour)
            chart.tip(bar, f"{_label(entry, several)}: {rate_text(row)}")
            low, high = row.p5_images_per_s or entry.rate, row.p95_images_per_s or entry.rate
            axes.plot([low, high], [position, position], color=INK, linewidth=1.2)
            bold = "bold" if entry is fastest else "normal"
            text = f"{_number(entry.rate)} · {entry.rate / base[entry.source.label]:.2f}x"
            axes.annotate(
                text, (max(high, entry.rate), position), xytext=(6, 0), va="center", color=INK,
                textcoords="offset points", fontweight=bold,
            )  # fmt: skip
        axes.set_xlim(0, 1.6 * max(entry.row.p95_images_per_s or entry.rate for entry in bars))
        alt = f"{title}, images per second: " + "; ".join(
            f"{_label(entry, several)} {entry.rate:.0f}" for entry in bars
        )
        svg = finish(chart, f"bars-{number}", alt)
    caption = f"Images per second at batch {batch}, {first.image_size} px."
    if published is not None:
        ratio = fastest.rate / published
        caption += (
            f" The paper, on an A100: {published:,}; the fastest bar is {ratio:.2f} times it."
        )
    return Drawing(title, alt, svg, caption)


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _label(entry: Entry, several: bool) -> str:
    return f"{entry.source.label}: {setting(entry.row)}" if several else setting(entry.row)


def _shared_batch(group: Sequence[Entry]) -> int:
    """The batch size that most settings have; of several such the fastest."""
    counts = Counter(entry.row.batch_size for entry in group)
    most = max(counts.values())
    return best([e for e in group if counts[e.row.batch_size] == most]).row.batch_size


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
