"""`ixt bench report` and `ixt bench compare`: what becomes of results files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import say, uncollected
from ixt.cli.bench import bench_app
from ixt.errors import EngineError
from ixt.files import write_text

_FORMATS = (".html", ".csv", ".md")


@bench_app.command("report")
def report(
    results: Annotated[list[Path], typer.Argument(metavar="FILE")],
    out: Path = Path("report.html"),
    device: Annotated[
        str | None, typer.Option(metavar="GPU", show_default="the measured GPU")
    ] = None,
) -> None:
    """Write results as an HTML page with charts, or as a table.

    The HTML file needs no network and no other files. Several files of results become one page.

    Example: `ixt bench report bench.json --out report.html`

    Args:
        results: Files of `ixt bench --results`.
        out: File to write: .html with charts, or .csv or .md with a table.
        device: Type of GPU, or a YAML file, for the roofline chart.
    """
    from ixt.bench.report.figures import Source, csv_text
    from ixt.bench.report.notes import markdown_text
    from ixt.bench.report.page import page_html
    from ixt.bench.results import read_report

    if out.suffix not in _FORMATS:
        raise EngineError(f"--out: {out}: the name must end in {', '.join(_FORMATS)}")
    reports = [read_report(file) for file in results]
    if out.suffix == ".html":
        labels = _labels(results)
        sources = [Source(*pair) for pair in zip(labels, reports, strict=True)]
        with uncollected(at_exit=True):  # a roofline counts models, and needs torch and timm
            page = page_html(sources, device)
        write_text(out, page)
    elif len(reports) > 1:
        raise EngineError(
            f"--out: {out}: shows one file of results, but {len(reports)} are given; "
            "give an .html file"
        )
    else:
        write_text(out, (csv_text if out.suffix == ".csv" else markdown_text)(reports[0]))
    say(str(out))


def _labels(files: list[Path]) -> list[str]:
    """The shortest names that tell the files apart."""
    stems = [file.stem for file in files]
    names = stems if len(set(stems)) == len(stems) else [str(file) for file in files]
    if len(set(names)) < len(names):
        raise EngineError("the same results file is given twice; give it once")
    return names


@bench_app.command("compare")
def compare(
    a: Path,
    b: Path,
    threshold: Annotated[str, typer.Option(metavar="SHARE")] = "1%",
    confidence: Annotated[str, typer.Option(metavar="SHARE")] = "95%",
    fail_on_regression: bool = False,
) -> None:
    """Show which measurements of B are faster or slower than those of A.

    A difference counts if it is larger than the noise explains. Each round is one independent
    measurement. Two rounds show only large differences, so measure with `--rounds 3` or more.

    Example: `ixt bench compare before.json after.json --threshold 1%`

    Args:
        a: File of `ixt bench --results` to compare with.
        b: File with the newer results.
        threshold: Changes below this do not count, e.g. 1% or 0.01.
        confidence: Confidence level of the intervals, e.g. 95% or 0.95.
        fail_on_regression: Exit with status 1 if a measurement is slower or has failed. Both files
            must come from the same machine.
    """
    from ixt.bench.compare import compare as compare_reports
    from ixt.bench.compare import print_comparison
    from ixt.bench.differences import refuse_decisive
    from ixt.bench.results import read_report

    comparison = compare_reports(
        read_report(a),
        read_report(b),
        threshold=_share("--threshold", threshold, 0.0),
        confidence=_share("--confidence", confidence, 0.5),
    )
    if fail_on_regression:
        refuse_decisive(comparison.differences)
    print_comparison(comparison)
    if fail_on_regression and comparison.regressed:
        raise typer.Exit(1)


def _share(option: str, text: str, least: float) -> float:
    """A fraction, given as one or in percent."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not least <= value < 1:
        raise EngineError(f"{option}: {text}: give a share from {least:.0%} to below 100%")
    return value
