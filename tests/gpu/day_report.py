"""What came back from a GPU day: tables, charts, copies for tests/results, suggested defaults."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from day_slices import KEPT
from step_runner import write_rows
from training_steps import DEFAULT, SETTINGS

_LEAST = 0.03
"""Below this a gain is not worth a default, whatever the spread."""


@dataclass(frozen=True)
class Rate:
    """Images per second and how far its windows lie apart."""

    images_per_s: float
    spread: float
    """Half the distance from the 5th to the 95th percentile, as a share of the median."""


@dataclass(frozen=True)
class Gain:
    """A setting that is faster than another by more than both spread."""

    what: str
    """Where it was measured."""
    setting: str
    over: str
    ratio: float
    spread: float
    """Of both together."""

    @property
    def line(self) -> str:
        """The figure and what it suggests."""
        return (
            f"{self.what}: {self.setting} was {self.ratio:.2f}x of {self.over} "
            f"(spread {self.spread:.1%})"
        )


def rate_of(windows: Sequence[float]) -> Rate:
    """The median of windows and their spread."""
    median = statistics.median(windows)
    if len(windows) < 3:
        return Rate(median, 1.0)
    cuts = statistics.quantiles(windows, n=20, method="inclusive")
    return Rate(median, (cuts[-1] - cuts[0]) / 2 / median)


def gain(what: str, setting: str, new: Rate, over: str, old: Rate) -> Gain | None:
    """The gain, or None where the spread of both or `_LEAST` hides it."""
    ratio, spread = new.images_per_s / old.images_per_s, new.spread + old.spread
    if ratio - 1 <= max(spread, _LEAST):
        return None
    return Gain(what, setting, over, ratio, spread)


def gains_of_settings(rows: dict[str, Any]) -> Iterator[Gain]:
    """Gains over the default of the steps on a batch that stays on the device."""
    rates = {
        name: rate_of(row["synthetic"]["images_per_s_of_windows"])
        for name, row in rows.items()
        if "error" not in row
    }
    if DEFAULT not in rates:
        return
    for name, rate in rates.items():
        if found := gain("training step, synthetic", name, rate, DEFAULT, rates[DEFAULT]):
            yield found


def gains_of_bench(report: dict[str, Any]) -> Iterator[Gain]:
    """Gains of NHWC over NCHW, of compiled over eager and of bf16 over TF32, of each model."""
    rates = {
        _key(row): rate_of([rate for timing in row["rounds"] for rate in timing["rates"]])
        for row in report["rows"]
        if row["images_per_s"] is not None
    }
    for key, rate in rates.items():
        for field, new, old in (
            ("layout", "channels_last", "contiguous"),
            ("compile", True, False),
            ("precision", "amp-bf16", "tf32"),
        ):
            other = tuple((name, old if name == field else value) for name, value in key)
            if dict(key)[field] != new or other not in rates:
                continue
            values = dict(key)
            what = f"{values['model']} {values['mode']}, {values['precision']}"
            what += f" {values['layout']}" + " compiled" * values["compile"]
            setting = f"{field} {new}".replace("compile True", "compiled")
            over = f"{old}".replace("False", "eager")
            if found := gain(what, setting, rate, over, rates[other]):
                yield found


def _key(row: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    fields = ("model", "mode", "layout", "precision", "compile", "batch_size", "image_size")
    return tuple((name, row[name]) for name in fields)


def suggestions(gains: Sequence[Gain]) -> list[str]:
    """Which defaults the figures suggest, the best setting of the training step first."""
    settings = sorted(
        (g for g in gains if g.setting in SETTINGS), key=lambda g: g.ratio, reverse=True
    )
    lines = [
        f"{g.line}: set {', '.join(s for s in SETTINGS[g.setting] if s not in SETTINGS[DEFAULT])}"
        for g in settings
    ]
    return lines + [g.line for g in gains if g.setting not in SETTINGS]


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


def kernels_text(report: dict[str, Any]) -> str:
    """The rows of `ixt bench kernels`."""
    rows = [
        (r["layer"], r["passes"], r["how"], f"{r['ms']:.4f}", f"{r['percent_of_copy']:.0f}")
        for r in report["rows"]
    ]
    return "## Kernels\n\n" + table(("layer", "passes", "how", "ms", "% of a copy"), rows)


def write_report(folder: Path, results: Path) -> int:
    """Write report.md and charts into FOLDER/report; copy a GPU's results; print suggestions.

    Results of a rehearsal are shown and never copied.
    """
    found = {file.name: file for file in sorted(folder.rglob("*.json"))}
    slices = [json.loads(found[f"{n}.json"].read_text()) for n in "abcd" if f"{n}.json" in found]
    if not slices:
        print(f"day.py: {folder}: has no a.json, b.json, c.json or d.json; give what came back",
              file=sys.stderr)  # fmt: skip
        return 2
    devices = sorted({s["machine"]["device"] or "no GPU" for s in slices})
    if len(devices) > 1:
        print(f"day.py: {folder}: has results of {' and '.join(devices)}; give one folder each",
              file=sys.stderr)  # fmt: skip
        return 2
    rehearsal = any(s["rehearsal"] for s in slices)
    out = folder / "report"
    out.mkdir(exist_ok=True)
    gains = list(_gains(found, slices))
    advice = suggestions(gains) or ["no setting is faster by more than the spread"]
    title = f"# {devices[0]}" + ", a rehearsal: no figure counts" * rehearsal
    text = [title, *_machines(slices), "## Suggested defaults", *(f"- {line}" for line in advice)]
    text += [slice_text(content) for content in slices]
    if "kernels.json" in found:
        text.append(kernels_text(json.loads(found["kernels.json"].read_text())))
    for name in ("bench", "paper"):
        if f"{name}.json" in found:
            text.append(f"## {name}.json\n\n" + _bench_pages(found[f"{name}.json"], out / name))
    (out / "report.md").write_text("\n\n".join(text) + "\n")
    print(out / "report.md")
    for line in [*advice, *_copied(found, slices, devices[0], results, rehearsal)]:
        print(line)
    return 0


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


def _gains(found: dict[str, Path], slices: Sequence[dict[str, Any]]) -> Iterator[Gain]:
    for content in slices:
        step = content["steps"].get("training steps")
        if step and step["result"]:
            yield from gains_of_settings(step["result"])
    for name in ("bench.json", "paper.json"):
        if name in found:
            yield from gains_of_bench(json.loads(found[name].read_text()))


def _bench_pages(results: Path, out: Path) -> str:
    """`ixt bench report` as a page with charts beside the table; the table's text or the error."""
    text = ""
    for ending in (".html", ".md"):
        target = out.with_suffix(ending)
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
