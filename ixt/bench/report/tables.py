"""The tables and lists of the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ixt.bench.report.entries import LAYOUT, Source
from ixt.bench.report.peers import best_rows, describe, device_family, nearest_peers
from ixt.bench.report.text import (
    ceilings_text,
    flags_by_precision,
    images_per_joule,
    pair_layouts,
    peak_gib,
    published_rate,
    relative_spread,
    remarks,
)
from ixt.bench.results import Row

_COLUMNS = (
    "model", "mode", "precision", "layout", "batch", "img/s", "spread", "paper", "ratio", "ms/step",
    "MFU", "of floor", "of limit", "GiB", "img/J", "GMACs", "px",
)  # fmt: skip
_TEXTS = ("model", "mode", "precision", "layout", "results")
_STEPS = {
    "full": "gradients cleared, forward with drop path, loss, backward, clipping, AdamW, EMA",
    "plain": "gradients cleared, forward, loss, backward, SGD",
}
_PEER_COLUMNS = ("model", "mode", "device", "setting", "img/s", "ours / theirs", "source")


def results_table(sources: Sequence[Source]) -> str:
    """All cells; the fastest layout of a setting is marked, and empty columns are left out."""
    rows: list[tuple[list[tuple[str, float | None]], bool]] = []
    for source in sources:
        for layouts in pair_layouts(source.report.rows):
            top = max((row.images_per_s or 0.0) for row in layouts)
            for row in layouts:
                best = len(layouts) > 1 and row.images_per_s == top
                rows.append(([(source.label, None), *_cells(row)], best))
    names = ("results", *_COLUMNS)
    kept = [n for n in range(len(names)) if any(cells[n][0] for cells, _ in rows)]
    kept = kept if len(sources) > 1 else kept[1:]
    columns = [names[n] for n in kept]
    lines = [_line([cells[n] for n in kept], columns, best) for cells, best in rows]
    head = "".join(
        f'<th scope="col"{_class(name)}><button type="button">{name}</button></th>'
        for name in columns
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="All results">'
        f'<table id="results"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody>'
        "</table></div>"
    )


def _class(name: str) -> str:
    return "" if name in _TEXTS else ' class="number"'


def _line(cells: Sequence[tuple[str, float | None]], columns: Sequence[str], best: bool) -> str:
    parts = []
    for (text, value), name in zip(cells, columns, strict=True):
        number = "" if name in _TEXTS else f' data-value="{"" if value is None else repr(value)}"'
        names = [*([] if name in _TEXTS else ["number"]), *(["rate"] if name == "img/s" else [])]
        classes = f' class="{" ".join(names)}"' if names else ""
        parts.append(f"<td{classes}{number}>{escape(text)}</td>")
    opening = '<tr class="best">' if best else "<tr>"
    return f"{opening}{''.join(parts)}</tr>"


def _cells(row: Row) -> list[tuple[str, float | None]]:
    """Text and value of each of `_COLUMNS`."""
    rate, published, joule = row.images_per_s, published_rate(row), images_per_joule(row)
    ratio = rate / published if rate and published else None
    gmacs = row.macs / 1e9 if row.macs else None
    gib = peak_gib(row) if row.rounds else None
    return [
        (row.model, None),
        (row.mode, None),
        (row.precision + (" compiled" if row.compile else ""), None),
        (LAYOUT[row.layout], None),
        (str(row.batch_size), row.batch_size),
        ("failed" if rate is None else f"{rate:,.1f}", rate),
        _number(relative_spread(row), "±{:.1%}"),
        _number(published, "{:,}"),
        _number(ratio, "{:.3g}"),
        _number(row.ms_per_step, "{:,.1f}"),
        _number(row.mfu, "{:.1%}"),
        _number(row.of_memory_floor, "{:.1%}"),
        _number(row.of_limit, "{:.1%}"),
        _number(gib, "{:.2f}"),
        _number(joule, "{:.2f}"),
        _number(gmacs, "{:.2f}"),
        (str(row.image_size), row.image_size),
    ]


def _number(value: float | None, form: str) -> tuple[str, float | None]:
    return ("" if value is None else form.format(value)), value


def peers_table(sources: Sequence[Source]) -> str:
    """The nearest published figures; empty where none of the models has any."""
    lines = []
    for source in sources:
        for row in best_rows(source.report):
            for run, figure in nearest_peers(row):
                same = device_family(run.device) == device_family(row.device or "cpu")
                ratio = f"{(row.images_per_s or 0) / figure.images_per_s:.2f}" if same else "-"
                device = run.device + (f" x{run.num_devices}" if run.num_devices > 1 else "")
                texts = [row.model, row.mode, device, describe(run, figure)]
                cells = "".join(f'<td class="wrap">{escape(text)}</td>' for text in texts)
                lines.append(
                    f'<tr>{cells}<td class="number">{figure.images_per_s:,.0f}</td>'
                    f'<td class="number">{ratio}</td>'
                    f'<td class="wrap long">{escape(run.publisher)}: '
                    f"<code>{escape(run.source)}</code>"
                    f"{'<br>' if run.note else ''}{escape(run.note)}</td></tr>"
                )
    if not lines:
        return ""
    head = "".join(
        f'<th scope="col"{_class(name) if "/" in name else ""}>{name}</th>'
        for name in _PEER_COLUMNS
    )
    unique = "".join(dict.fromkeys(lines))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Figures of others">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{unique}</tbody></table></div>"
    )


def machine_cards(sources: Sequence[Source]) -> str:
    """What each file was measured on, and how."""
    return "".join(
        f'<div class="card"><h3>{escape(source.label)}</h3>{_terms(_machine(source))}</div>'
        for source in sources
    )


def _machine(source: Source) -> list[tuple[str, str]]:
    machine, protocol = source.report.machine, source.report.protocol
    packages = machine.get("packages") or {}
    readings = [
        reading
        for row in source.report.rows
        for timing in row.rounds
        for reading in timing.checks.get("readings", [])
    ]
    threads = {t.checks.get("threads") for row in source.report.rows for t in row.rounds}
    found: list[tuple[str, object]] = [
        ("device", ", ".join(machine.get("devices") or []) or "CPU only"),
        ("processor", f"{machine.get('cpu')}, {machine.get('cpu_cores')} cores"),
        ("memory", f"{machine.get('memory_gib')} GiB"),
        ("threads", ", ".join(str(n) for n in sorted(n for n in threads if n))),
        ("cuDNN", machine.get("cudnn")),
        ("driver", _span([reading.get("driver") for reading in readings])),
        ("SM clock", _span([reading.get("sm_mhz") for reading in readings], " MHz")),
        ("power limit", _span([reading.get("power_limit_w") for reading in readings], " W")),
        ("CUDA", machine.get("cuda")),
        ("software", ", ".join(f"{k} {v}" for k, v in packages.items() if v)),
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


def _terms(pairs: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)
    return f"<dl>{lines}</dl>"


def remark_box(sources: Sequence[Source]) -> str:
    """What to know before trusting the figures; empty where there is nothing."""
    several = len(sources) > 1
    found = [
        f"{source.label}: {remark}" if several else remark
        for source in sources
        for remark in remarks(source.report.rows)
    ]
    if not found:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in found)
    return f'<div class="remarks"><h2>Before you trust these figures</h2><ul>{items}</ul></div>'
