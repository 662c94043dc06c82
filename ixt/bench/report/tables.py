"""What the page's bars, tables and lists hold; how they look is in `page.html`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from ixt.bench.report.peers import PeerLine, peer_lines
from ixt.bench.report.rows import LAYOUT, WORDS, Entry, Source, best, group_by
from ixt.bench.report.text import (
    PAPER_BATCH,
    ceilings_text,
    flags_by_precision,
    images_per_joule,
    pair_layouts,
    peak_gib,
    published_rate,
    ratio_to_paper,
    relative_spread,
    remarks,
)
from ixt.bench.results import Mode, Row

_OFF_SCALE = 4  # times the longest own bar: a longer one of the paper would make dots of them
_STEPS = {
    "full": "gradients cleared, forward with drop path, loss, backward, clipping, AdamW, EMA",
    "plain": "gradients cleared, forward, loss, backward, SGD",
}
# Heading, format and value of each column of numbers; None is shown as nothing.
_NUMBERS: tuple[tuple[str, str, Callable[[Row], float | None]], ...] = (
    ("batch", "{}", lambda row: row.batch_size),
    ("img/s", "{:,.1f}", lambda row: row.images_per_s),
    ("spread", "±{:.1%}", relative_spread),
    ("paper", "{:,}", published_rate),
    ("ratio", "{:.3g}", ratio_to_paper),
    ("ms/step", "{:,.1f}", lambda row: row.ms_per_step),
    ("MFU", "{:.1%}", lambda row: row.mfu),
    ("of floor", "{:.1%}", lambda row: row.of_memory_floor),
    ("of limit", "{:.1%}", lambda row: row.of_limit),
    ("GiB", "{:.2f}", lambda row: peak_gib(row) if row.rounds else None),
    ("img/J", "{:.2f}", images_per_joule),
    ("GMACs", "{:.2f}", lambda row: row.macs / 1e9 if row.macs else None),
    ("px", "{}", lambda row: row.image_size),
)


@dataclass(frozen=True)
class Value:
    """A cell of the table of all results."""

    text: str
    number: float | None = None
    """What the column is sorted by; None in columns of words, and where it is unknown."""


@dataclass(frozen=True)
class Bars:
    """The bars of one model in one mode, at the batch size that most settings have."""

    mode: str
    batch: int
    bars: list[tuple[str, Entry, float]]
    """Label, entry, and ratio to the first of the same results file."""
    fastest: Entry
    published: int | None
    """The paper's rate."""
    longest: float
    """Rate that fills the width."""

    @property
    def alt(self) -> str:
        """What they show, for those who do not see it."""
        rates = "; ".join(f"{label} {entry.rate:.0f}" for label, entry, _ in self.bars)
        return f"{self.fastest.row.model}, {self.mode}, images per second: {rates}"


def bar_cards(entries: Sequence[Entry]) -> list[tuple[str, int, list[Bars]]]:
    """Model, image size, and the bars of each mode."""
    several = len({entry.source.label for entry in entries}) > 1
    cards = group_by(entries, lambda entry: (entry.row.model, entry.row.image_size))
    return [
        (
            model,
            size,
            [
                _bars(of_mode, several)
                for mode in get_args(Mode)
                if (of_mode := [entry for entry in card if entry.row.mode == mode])
            ],
        )
        for (model, size), card in cards.items()
    ]


def _bars(group: Sequence[Entry], several: bool) -> Bars:
    batch = _shared_batch(group)
    bars = [entry for entry in group if entry.row.batch_size == batch]
    published = published_rate(bars[0].row)
    base = {entry.source.label: entry.rate for entry in reversed(bars)}
    longest = max(entry.row.p95_images_per_s or entry.rate for entry in bars)
    if published is not None and published < _OFF_SCALE * longest:
        longest = max(longest, published)
    return Bars(
        mode=WORDS[bars[0].row.mode],
        batch=batch,
        bars=[
            (
                f"{entry.source.label}: {entry.setting}" if several else entry.setting,
                entry,
                entry.rate / base[entry.source.label],
            )
            for entry in bars
        ],
        fastest=best(bars),
        published=published,
        longest=longest,
    )


def _shared_batch(group: Sequence[Entry]) -> int:
    """The batch size that most settings have; of several such the paper's, else the fastest."""
    counts = Counter(entry.row.batch_size for entry in group)
    common = [entry for entry in group if counts[entry.row.batch_size] == max(counts.values())]
    if published_rate(group[0].row) and PAPER_BATCH in {e.row.batch_size for e in common}:
        return PAPER_BATCH
    return best(common).row.batch_size


def results_table(sources: Sequence[Source]) -> tuple[list[str], list[tuple[list[Value], bool]]]:
    """Headings, and the cells of each row with whether it has a setting's fastest layout.

    Empty columns are left out.
    """
    names = ["results", "model", "mode", "precision", "layout", *(name for name, *_ in _NUMBERS)]
    rows: list[tuple[list[Value], bool]] = []
    for source in sources:
        for layouts in pair_layouts(source.report.rows):
            top = max((row.images_per_s or 0.0) for row in layouts)
            for row in layouts:
                fastest = len(layouts) > 1 and row.images_per_s == top
                rows.append(([Value(source.label), *_values(row)], fastest))
    kept = [n for n in range(len(names)) if any(values[n].text for values, _ in rows)]
    kept = kept if len(sources) > 1 else kept[1:]
    return [names[n] for n in kept], [([values[n] for n in kept], top) for values, top in rows]


def _values(row: Row) -> list[Value]:
    precision = row.precision + (" compiled" if row.compile else "")
    values = [Value(text) for text in (row.model, row.mode, precision, LAYOUT[row.layout])]
    for name, form, value_of in _NUMBERS:
        value = value_of(row)
        unknown = "failed" if name == "img/s" else ""
        values.append(Value(unknown if value is None else form.format(value), value))
    return values


def all_peers(sources: Sequence[Source]) -> list[PeerLine]:
    """The nearest published figures, each once."""
    return list(dict.fromkeys(line for source in sources for line in peer_lines(source.report)))


def all_remarks(sources: Sequence[Source]) -> list[str]:
    """What to know before trusting the figures."""
    several = len(sources) > 1
    return [
        f"{source.label}: {remark}" if several else remark
        for source in sources
        for remark in remarks(source.report.rows)
    ]


def machine_terms(source: Source) -> list[tuple[str, str]]:
    """What a file was measured on, and how."""
    machine, protocol = source.report.machine, source.report.protocol
    checks = [timing.checks for row in source.report.rows for timing in row.rounds]
    readings = [reading for each in checks for reading in each.get("readings", [])]
    threads = sorted({each["threads"] for each in checks if each.get("threads")})
    packages = (machine.get("packages") or {}).items()
    found: list[tuple[str, Any]] = [
        ("device", ", ".join(machine.get("devices") or []) or "CPU only"),
        ("processor", f"{machine.get('cpu')}, {machine.get('cpu_cores')} cores"),
        ("memory", f"{machine.get('memory_gib')} GiB"),
        ("threads", ", ".join(map(str, threads))),
        ("cuDNN", machine.get("cudnn")),
        ("driver", _span([reading.get("driver") for reading in readings])),
        ("SM clock", _span([reading.get("sm_mhz") for reading in readings], " MHz")),
        ("power limit", _span([reading.get("power_limit_w") for reading in readings], " W")),
        ("CUDA", machine.get("cuda")),
        ("software", ", ".join(f"{name} {version}" for name, version in packages if version)),
        ("Python", machine.get("python")),
        ("system", machine.get("platform")),
        ("commit", machine.get("git_commit")),
        ("command", " ".join(machine.get("command") or [])),
        (
            "protocol",
            f"{protocol.rounds} round{'s' if protocol.rounds > 1 else ''}, a fresh process per "
            f"cell; {protocol.windows} windows in {protocol.seconds:g} s, after a warm-up until "
            f"three windows agree within {protocol.agreement:.0%}, for at most "
            f"{protocol.max_warmup * protocol.seconds:g} s",
        ),
        ("training step", _STEPS[protocol.training_step]),
        *flags_by_precision(source.report.rows).items(),
        ("ceilings", ceilings_text(source.report.ceilings)),
        ("other load", _other_load(source.report.rows)),
    ]
    return [(name, str(value)) for name, value in found if value]


def _other_load(rows: Iterable[Row]) -> str:
    """How busy other processes were where the host's processor is what was measured."""
    cores = [row.other_cores for row in rows if row.device == "cpu"]
    return f"up to {max(cores):.1f} cores kept busy by other processes" if cores else ""


def _span(values: Iterable[object], unit: str = "") -> str:
    known = sorted({str(value) for value in values if value is not None})
    return f"{' to '.join(dict.fromkeys((known[0], known[-1])))}{unit}" if known else ""
