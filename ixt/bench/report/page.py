"""Put the page together: headline, charts, tables, machines."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import get_args

from ixt import __version__
from ixt.bench.report.accuracy import accuracy_chart, unplaced
from ixt.bench.report.bars import bar_cards, speedup
from ixt.bench.report.batches import batch_charts
from ixt.bench.report.ceiling import roofline_charts
from ixt.bench.report.entries import WORDS, Entry, Source, best, measured, setting
from ixt.bench.report.figures import Drawing
from ixt.bench.report.tables import machine_cards, peers_table, remark_box, results_table
from ixt.bench.results import Mode
from ixt.errors import EngineError

_FOLDER = Path(__file__).parent


def page_html(sources: Sequence[Source], device: str | None = None) -> str:
    """The whole page.

    Args:
        sources: results files, the main one first.
        device: name or YAML file of the device for the roofline; None takes the measured one's.

    Raises:
        EngineError: nothing was measured, matplotlib is missing, or the device is not known.
    """
    entries = measured(sources)
    if not entries:
        raise EngineError("nothing to show: no cell of the results has a figure, only errors")
    device_names = list(dict.fromkeys(source.device for source in sources))
    models = list(dict.fromkeys(entry.row.model for entry in entries))
    heading = f"Throughput of {_join(models)} on {_join(device_names)}"
    return Template((_FOLDER / "page.html").read_text()).substitute(
        title=escape(f"ixt bench: {_join(models)}"),
        heading=escape(heading),
        lead=escape(_lead(sources, entries)),
        tiles=_tiles(entries),
        remarks=remark_box(sources),
        sections=_sections(sources, entries, device),
        version=__version__,
        css=(_FOLDER / "page.css").read_text(),
        js=(_FOLDER / "page.js").read_text(),
    )


def _sections(sources: Sequence[Source], entries: list[Entry], device: str | None) -> str:
    placed = [accuracy_chart(entries, mode) for mode in get_args(Mode)]
    missing = unplaced(entries)
    note = f"Without a published accuracy: {', '.join(missing)}." if missing else ""
    peers = peers_table(sources)
    roofs, why = roofline_charts(entries, device)
    parts = [
        _charts("Accuracy and speed", [d for d in placed if d is not None], note, wide=True),
        _section("Layouts and precisions", bar_cards(entries), _BARS_NOTE),
        _charts("Batch sizes", batch_charts(entries)),
        _charts("Under the roofline", roofs, " ".join(why), wide=True),
        _section("All results", results_table(sources), _TABLE_NOTE),
        _section("Published by others", peers, _PEERS_NOTE) if peers else "",
        _section("Machine and protocol", f'<div class="machines">{machine_cards(sources)}</div>'),
    ]
    return "\n".join(part for part in parts if part)


_BARS_NOTE = (
    "Images per second; the factor compares with the first bar of the same results file. The line "
    "at a bar's end spans the 5th to 95th percentile of its windows."
)
_TABLE_NOTE = (
    "Medians over the windows of all rounds; the spread is half the distance from the 5th to the "
    "95th percentile. Paper: one A100, TF32, batch 128. Of floor, of limit: share of the rate that "
    "memory traffic alone, and that traffic or arithmetic, whichever takes longer in each "
    "operation, would allow. Select a heading to sort."
)
_PEERS_NOTE = (
    "Images per second of one device. The fastest setting of each model is compared where both "
    "devices are of one family."
)


def _charts(title: str, drawings: list[Drawing], note: str = "", *, wide: bool = False) -> str:
    figures = "".join(
        f"<figure><h3>{escape(drawing.title)}</h3>"
        f'<div class="plot">{drawing.svg}</div>'
        f"<figcaption>{escape(drawing.caption)}</figcaption></figure>"
        for drawing in drawings
    )
    kind = "charts wide" if wide else "charts"
    return _section(title, figures and f'<div class="{kind}">{figures}</div>', note)


def _section(title: str, body: str, note: str = "") -> str:
    if not body and not note:
        return ""
    text = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{text}{body}</section>"


def _lead(sources: Sequence[Source], entries: list[Entry]) -> str:
    packages = sources[0].report.machine.get("packages") or {}
    rows = sum(len(source.report.rows) for source in sources)
    windows = sum(len(t.rates) for entry in entries for t in entry.row.rounds)
    return f"{rows} cells, {windows:,} timed windows, torch {packages.get('torch', 'unknown')}."


def _tiles(entries: list[Entry]) -> str:
    tiles = []
    for mode in get_args(Mode):
        of_mode = [entry for entry in entries if entry.row.mode == mode]
        if of_mode:
            top = best(of_mode)
            text = f"img/s, fastest {WORDS[mode]}: {top.row.model}, {setting(top.row)}"
            tiles.append((f"{top.rate:,.0f}" if top.rate >= 100 else f"{top.rate:.1f}", text))
    gains = (
        ("layout", "contiguous", "channels_last", "channels_last over contiguous"),
        ("compile", False, True, "compiled over eager"),
    )
    for name, slow, fast, words in gains:
        ratios = speedup(entries, name, slow, fast)
        if ratios:
            mean = statistics.geometric_mean(ratios)
            text = f"{words}, geometric mean of {len(ratios)} pairs"
            tiles.append((f"{mean:.2f}x", text))
    return "\n".join(f"<div><dt>{escape(text)}</dt><dd>{big}</dd></div>" for big, text in tiles)


def _join(names: Sequence[str]) -> str:
    """a, b and c; many are counted."""
    if len(names) > 3:
        return f"{len(names)} models"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
