"""The results table for the terminal and in Markdown, and what to know before trusting it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ixt.bench.console import print_lines, print_table
from ixt.bench.report.figures import RATE, WORDS, Source, Value, results_table
from ixt.bench.results import Ceilings, Report, Row, group_by

_QUIET_CORES = 0.1  # what an idle system's own services may take
_MOST_REMARKS = 3  # of one kind, before they become one
_STEPS = {
    "full": "gradients cleared, forward with drop path, loss, backward, clipping, AdamW, EMA",
    "plain": "gradients cleared, forward, loss, backward, SGD",
}


def print_report(report: Report) -> None:
    """Print a line per cell; the faster layout of a setting is bold, and remarks follow."""
    columns, rows = results_table([Source("", report)])
    lines = [_texts(columns, *row, "[bold]{}[/bold]") for row in rows]
    print_table(columns, lines, words=WORDS, title=title(report))
    print_lines([*conditions(report), *remarks(report.rows)])


def markdown_text(report: Report) -> str:
    """The table of the terminal, with its title, conditions and remarks."""
    columns, rows = results_table([Source("", report)])
    rule = ["---" if name in WORDS else "---:" for name in columns]
    lines = [columns, rule, *(_texts(columns, *row, "**{}**") for row in rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    notes = "".join(f"\n- {note}" for note in [*conditions(report), *remarks(report.rows)])
    return f"{title(report)}\n\n{table}\n{notes}\n" if notes else f"{title(report)}\n\n{table}\n"


def _texts(columns: list[str], values: list[Value], fastest: bool, bold: str) -> list[str]:
    """A row's texts, the rate in bold where it is the fastest layout's."""
    pairs = zip(columns, values, strict=True)
    return [bold.format(v.text) if fastest and name == RATE else v.text for name, v in pairs]


def title(report: Report) -> str:
    """Device, image sizes and torch of a report."""
    machine = report.machine
    device = (machine["devices"] or [machine["cpu"]])[0]
    sizes = sorted({row.image_size for row in report.rows})
    return f"{device}, {', '.join(map(str, sizes))} px, torch {machine['packages']['torch']}"


def remarks(rows: Sequence[Row]) -> list[str]:
    """What a reader must know before trusting the figures: errors, throttling, noise.

    What many cells share is said once.
    """
    found = []
    for kind, group in group_by(rows, lambda row: _remark(row)[0]).items():
        if kind and len(group) > _MOST_REMARKS:
            spreads = [row.spread for row in group if row.spread is not None]
            noise = f"; spread ±{min(spreads):.1%} to ±{max(spreads):.1%}" if spreads else ""
            found.append(f"{len(group)} of {len(rows)} cells: {kind}{noise}")
        elif kind:
            found += [f"{row.cell.name}: {_remark(row)[1]}" for row in group]
    return found


def _remark(row: Row) -> tuple[str, str]:
    """What is wrong with a row, as it is said of many and of this one; empty if nothing is."""
    spread = f"spread {row.p5_images_per_s or 0:.1f} to {row.p95_images_per_s or 0:.1f} img/s"
    if row.error is not None:
        return row.error, row.error
    if row.throttled:
        reasons = {reason for timing in row.rounds for reason in timing.throttled}
        text = f"the device throttled ({', '.join(sorted(reasons))})"
        return text, text
    if row.device == "cpu" and row.other_cores > _QUIET_CORES:
        text = f"other processes kept {row.other_cores:.1f} cores busy"
        return "other processes kept cores busy", f"{text}; {spread}"
    if not row.settled:
        return "the warm-up did not settle", f"the warm-up did not settle; {spread}"
    return "", ""


def all_remarks(sources: Sequence[Source]) -> list[str]:
    """The remarks on several files."""
    several = len(sources) > 1
    return [
        f"{source.label}: {remark}" if several else remark
        for source in sources
        for remark in remarks(source.report.rows)
    ]


def conditions(report: Report) -> list[str]:
    """What the figures rest on: flags as read back from torch, and the device's own ceilings."""
    found = [f"{name}: {flags}" for name, flags in flags_by_precision(report.rows).items()]
    if report.ceilings is not None:
        found.append(f"this device reaches {ceilings_text(report.ceilings)}")
    if report.protocol.rounds == 1:
        found.append("one round: the spread is of one process, and another may differ by more")
    return found


def ceilings_text(ceilings: Ceilings | None) -> str:
    """What a device was seen to reach, in words; empty if nothing was measured."""
    if ceilings is None:
        return ""
    parts = [f"{ceilings.copy_gb_per_s:,.0f} GB/s in a copy"]
    for name, tflops in ceilings.matmul_tflops.items():
        parts.append(f"{tflops:.3g} TFLOP/s in {name} products")
    return ", ".join(parts)


def flags_by_precision(rows: Iterable[Row]) -> dict[str, str]:
    """What each precision has set, in words, as its cells read it back."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for checks in (timing.checks for timing in row.rounds):
            if "weight_dtype" in checks:
                text = (
                    f"convolutions {checks['conv_fp32_precision']}, matrix products "
                    f"{checks['matmul_fp32_precision']}, weights {checks['weight_dtype']}"
                )
                found.setdefault(row.precision, []).append(text)
    return {name: " or ".join(dict.fromkeys(texts)) for name, texts in found.items()}


def machine_terms(source: Source) -> list[tuple[str, str]]:
    """What a file was measured on, and how."""
    machine, protocol = source.report.machine, source.report.protocol
    checks = [timing.checks for timing in source.report.timings]
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
