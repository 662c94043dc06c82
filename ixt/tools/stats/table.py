"""A split's numbers as a table for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ixt.tools.stats.split import FEW_IMAGES, PixelStats, SplitStats

_SHOWN = {0: "least", 5: "5 %", 50: "median", 95: "95 %", 100: "most"}
_BARS = " ▁▂▃▄▅▆▇█"
_NAMED = 5


def print_stats(stats: SplitStats, root: Path | str, console: Console | None = None) -> None:
    """Print a split's numbers: how sizes are spread, then formats, classes and pixels."""
    console = console or Console()
    console.print(f"[bold]{escape(f'{root}/{stats.folder}')}[/bold]", highlight=False)
    for line in _lines(stats):
        console.print(line, highlight=False, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in _SHOWN.values():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("spread (log)", no_wrap=True)
    for name, spread in stats.distributions.items():
        values = [_number(spread.percentiles[percent]) for percent in _SHOWN]
        table.add_row(name.replace("_", " "), *values, _bars(spread.counts))
    console.print(table)


def _lines(stats: SplitStats) -> Iterator[str]:
    low, median, high = stats.images_per_class
    formats = ", ".join(f"{count:,} {name}" for name, count in stats.formats.items())
    yield f"{stats.num_images:,} images, {_size(stats.num_bytes)}: {formats}"
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    spread = "" if low == high else f", median {median:,g}"
    classes = "1 class" if stats.num_classes == 1 else f"{stats.num_classes:,} classes"
    yield f"{classes} of {each} image{'s' if high != 1 else ''}{spread}"
    if stats.small_classes:
        named = [f"{escape(name)} ({n})" for name, n in stats.small_classes.items()]
        more = ", ..." if len(named) > _NAMED else ""
        yield (
            f"{len(named):,} of them with fewer than {FEW_IMAGES} training images: "
            f"{', '.join(named[:_NAMED])}{more}"
        )
    if stats.pixels is not None:
        yield _pixels(stats.pixels)


def _pixels(pixels: PixelStats) -> str:
    mean, std = (
        ", ".join(f"{value:.4f}" for value in triple) for triple in (pixels.mean, pixels.std)
    )
    which = "all" if pixels.exact else "a fixed sample of"
    left_out = f"; {pixels.num_left_out:,} cannot be decoded" if pixels.num_left_out else ""
    return (
        f"mean {mean}  std {std}  over every pixel of {which} {pixels.num_images:,} whole images"
        f"{left_out}"
    )


def _size(num_bytes: int) -> str:
    gib = num_bytes / 2**30
    return f"{gib:,.1f} GiB" if gib >= 1 else f"{num_bytes / 2**20:,.1f} MiB"


def _bars(counts: tuple[int, ...]) -> str:
    """One character per bin; a single image still gets the smallest bar."""
    top = max(counts)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // top)] for count in counts)


def _number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.1 else f"{value:.3f}"  # so that the columns stay narrow
