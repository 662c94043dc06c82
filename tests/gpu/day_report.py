"""What came back from a GPU day: tables, charts, copies for tests/results, suggested defaults."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from day_slices import KEPT
from step_runner import GOOD, SLICE_KEYS, Refused, check_writable, read_results, write_rows
from training_steps import DEFAULT, SETTINGS

SWITCHES = {
    ("layout", "channels_last", "contiguous"): "engine.channels_last=true",
    ("compile", True, False): "engine.compile=true",
    ("precision", "amp-bf16", "tf32"): "engine.precision=bf16",
}
"""A field of a benchmark's cells, its two values, and the setting that stands for the first."""
_LEAST = 0.03
"""Below this a gain is not worth a default, whatever the spread."""


@dataclass(frozen=True)
class Rate:
    """Images per second and how far its windows lie apart."""

    images_per_s: float
    spread: float
    """Half the distance from the 5th to the 95th percentile, as a share of the median."""


def rate_of(windows: Sequence[float]) -> Rate:
    """The median of windows and their spread."""
    median = statistics.median(windows)
    if len(windows) < 3:
        return Rate(median, 1.0)
    cuts = statistics.quantiles(windows, n=20, method="inclusive")
    return Rate(median, (cuts[-1] - cuts[0]) / 2 / median)


def is_faster(new: Rate, old: Rate) -> bool:
    """Whether a gain exceeds the spread of both and is worth a default."""
    return new.images_per_s / old.images_per_s - 1 > max(new.spread + old.spread, _LEAST)


def advice_of_settings(rows: dict[str, Any]) -> Iterator[str]:
    """The settings of the training step that are faster than the default, the fastest first.

    What changes the decoding is judged with the loader, all else on a batch that stays on the
    device.
    """
    rows = {name: row for name, row in rows.items() if "error" not in row}
    found = []
    for name in rows if DEFAULT in rows else ():
        changes = [setting for setting in SETTINGS[name] if setting not in SETTINGS[DEFAULT]]
        decoding = any(setting.startswith("data.") for setting in changes)
        what, mode = ("loader and step", "together") if decoding else ("step", "synthetic")
        new, old = (rate_of(rows[n][mode]["images_per_s_of_windows"]) for n in (name, DEFAULT))
        if is_faster(new, old):
            ratio, spread = new.images_per_s / old.images_per_s, new.spread + old.spread
            line = f"{what}: {name} was {ratio:.2f}x of {DEFAULT} (spread {spread:.1%})"
            found.append((ratio, f"{line}: set {', '.join(changes)}"))
    yield from (line for _, line in sorted(found, reverse=True))


def advice_of_bench(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Each switch, over all pairs of cells that differ in nothing else."""
    rates = {
        _key(row): rate_of([rate for timing in row["rounds"] for rate in timing["rates"]])
        for row in rows
        if row["images_per_s"] is not None
    }
    for mode, ((field, new, old), setting) in product(("train", "infer"), SWITCHES.items()):
        pairs = [
            (rate, rates[other])
            for key, rate in rates.items()
            if dict(key)["mode"] == mode and dict(key)[field] == new
            if (other := tuple((n, old if n == field else v) for n, v in key)) in rates
        ]
        if not pairs:
            continue
        ratios = [rate.images_per_s / base.images_per_s for rate, base in pairs]
        gains = sum(is_faster(rate, base) for rate, base in pairs)
        losses = sum(is_faster(base, rate) for rate, base in pairs)
        verdict = "set it" if gains > len(pairs) / 2 and not losses else "no default"
        yield (
            f"bench, {mode}: {setting}: {verdict}: faster in {gains} of {len(pairs)} pairs of "
            f"cells, slower in {losses}; median {statistics.median(ratios):.2f}x, "
            f"{min(ratios):.2f} to {max(ratios):.2f}"
        )


def _key(row: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    fields = ("model", "mode", "layout", "precision", "compile", "batch_size", "image_size")
    return tuple((name, row[name]) for name in fields)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; bars in cells are escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    cells = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def slice_text(content: dict[str, Any]) -> str:
    """A slice's steps, and the tables of what they measured."""
    parts = [f"## Slice {content['slice']}"]
    steps = content["steps"]
    parts.append(
        table(
            ("step", "result", "seconds", "remark"),
            [(name, s["status"], f"{s['seconds']:.0f}", s["line"]) for name, s in steps.items()],
        )
    )
    for name, step in steps.items():
        if step["result"] and (text := _RESULTS.get(name)):
            parts += [f"### {name}", text(step["result"])]
    return "\n\n".join(parts)


def _smoke_table(result: dict[str, Any]) -> str:
    return table(
        ("cell", "result", "largest difference", "bound", "seconds", "remark"),
        [
            (
                name,
                row["status"],
                f"{row['difference']:.1e}" if "difference" in row else "",
                f"{row['bound']:.0e}" if "bound" in row else "",
                row.get("seconds", ""),
                row["line"],
            )
            for name, row in result["cells"].items()
        ],
    )


def _tests_table(result: dict[str, Any]) -> str:
    slow = sorted(result.items(), key=lambda item: -item[1]["seconds"])
    shown = [item for item in slow if item[1]["outcome"] == "failed"] + slow[:3]
    rows = dict(shown).items()
    return table(
        ("failed and slowest tests", "outcome", "seconds", "reason"),
        [(name, row["outcome"], row["seconds"], row.get("reason", "")) for name, row in rows],
    )


def _steps_table(result: dict[str, Any]) -> str:
    rows = []
    for name, row in result.items():
        if "error" in row:
            rows.append((name, "", "", "", "", row["error"]))
            continue
        rate = rate_of(row["synthetic"]["images_per_s_of_windows"])
        others = (f"{row[mode]['images_per_s']:,.0f}" for mode in ("loader", "together"))
        shown = (f"{rate.images_per_s:,.0f}", f"±{rate.spread:.1%}")
        rows.append((name, *shown, *others, row["verdict"].partition(":")[0]))
    return table(("setting", "synthetic, img/s", "spread", "loader", "together", "remark"), rows)


def _rates_table(result: dict[str, Any]) -> str:
    rows = [
        (mode, setting["num_threads"], stage, f"{rate['images_per_s']:,.0f}")
        for mode, report in result["rates"].items()
        for setting in report["settings"]
        for stage, rate in setting["stages"].items()
    ]
    return table(("decoding", "threads", "stage", "img/s"), rows)


def _pixels_table(result: dict[str, Any]) -> str:
    rows = [
        (mode, key, value)
        for part in ("pixels", "memory")
        for mode, values in result.get(part, {}).items()
        for key, value in values.items()
    ]
    return table(("decoding", "figure", "value"), rows)


_RESULTS = {
    "smoke matrix": _smoke_table,
    "kernel tests": _tests_table,
    "other GPU tests": _tests_table,
    "DALI tests": _tests_table,
    "training steps": _steps_table,
    "rates": _rates_table,
    "pixels and memory": _pixels_table,
}


def kernels_table(report: dict[str, Any]) -> str:
    """The rows of `ixt bench kernels`."""
    rows = [
        (r["layer"], r["passes"], r["how"], f"{r['ms']:.4f}", f"{r['percent_of_copy']:.0f}")
        for r in report["rows"]
    ]
    return table(("layer", "passes", "how", "ms", "% of a copy"), rows)


def write_report(folder: Path, results: Path) -> int:
    """Write report.md and charts into FOLDER/report; copy a GPU's results; print suggestions.

    Results of a rehearsal are shown and never copied.

    Raises:
        Refused: there are no results, some are unreadable, or they are of several devices.
    """
    found = {file.name: file for file in sorted(folder.rglob("*.json"))}
    slices = [read_results(found[f"{n}.json"], *SLICE_KEYS) for n in "abcd" if f"{n}.json" in found]
    benches = {name: read_results(found[name], "rows") for name in KEPT if name in found}
    if not slices:
        raise Refused(f"{folder}: has no a.json, b.json, c.json or d.json; give what came back")
    devices = sorted({s["machine"]["device"] or "no GPU" for s in slices})
    if len(devices) > 1:
        raise Refused(f"{folder}: has results of {' and '.join(devices)}; give one folder each")
    rehearsal = any(s["rehearsal"] for s in slices)
    out = folder / "report"
    check_writable(out)
    advice = list(_advice(slices, benches)) or ["no two settings were measured"]
    title = f"# {devices[0]}" + ", a rehearsal: no figure counts" * rehearsal
    text = [title, *_machines(slices), "## Suggested defaults"]
    text.append("\n".join(f"- {line}" for line in advice))
    text += [slice_text(content) for content in slices]
    for name, content in benches.items():
        page = _bench_pages(found[name], out) if name != "kernels.json" else kernels_table(content)
        text.append(f"## {name}\n\n{page}")
    (out / "report.md").write_text("\n\n".join(text) + "\n")
    print(out / "report.md")
    for line in [*advice, *_copied(found, slices, devices[0], results, rehearsal)]:
        print(line)
    return 0


def _advice(slices: Sequence[dict[str, Any]], benches: dict[str, Any]) -> Iterator[str]:
    """What speaks against any change first, then what the figures suggest."""
    steps = {name: step for content in slices for name, step in content["steps"].items()}
    smoke, timed = steps.get("smoke matrix"), steps.get("training steps")
    if smoke and smoke["status"] != GOOD:
        found = f"it is {smoke['status']}: {smoke['line']}"
        yield f"change no default before the smoke matrix is good; {found}"
    if timed and timed["result"]:
        yield from advice_of_settings(timed["result"])
    yield from advice_of_bench(
        [row for name in benches.keys() - {"kernels.json"} for row in benches[name]["rows"]]
    )


def _machines(slices: Sequence[dict[str, Any]]) -> list[str]:
    """Versions and commits, each once."""
    lines = []
    for content in slices:
        machine = content["machine"]
        packages = {name: found for name, found in machine.get("packages", {}).items() if found}
        commits = sorted({s["commit"][:12] for s in content["steps"].values() if s["commit"]})
        shown = ", ".join(f"{name} {found}" for name, found in packages.items())
        lines.append(
            f"Slice {content['slice']}: driver {machine.get('driver')}, Python "
            f"{machine.get('python')}, {shown}, commit {', '.join(commits) or 'unknown'}."
        )
    return lines


def _bench_pages(results: Path, out: Path) -> str:
    """`ixt bench report` as a page with charts in a folder; the table's text, or the error."""
    text = ""
    for ending in (".html", ".md"):
        target = out / results.with_suffix(ending).name
        command = [sys.executable, "-m", "ixt", "bench", "report", str(results)]
        done = subprocess.run(
            [*command, "--out", str(target)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            text += f"{ending}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}\n\n"
        elif ending == ".md":
            text += target.read_text()
            target.unlink()
    return text


def _copied(
    found: dict[str, Path],
    slices: Sequence[dict[str, Any]],
    device: str,
    results: Path,
    rehearsal: bool,
) -> Iterator[str]:
    """Copy results under the device's name; a line for each."""
    if rehearsal or device == "no GPU":
        yield "nothing is copied: these are not results of a GPU"
        return
    name = re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_")
    results.mkdir(parents=True, exist_ok=True)
    for file in KEPT:
        if file in found:
            target = results / f"{name}_{file}"
            shutil.copyfile(found[file], target)
            yield f"copied: {target}"
    target = results / f"{name}_day.json"
    write_rows(target, {content["slice"]: content for content in slices})
    yield f"copied: {target}"
