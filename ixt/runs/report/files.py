"""The report of run folders as files: the page, and pictures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ixt.errors import DataError
from ixt.files import published, reason, replace_text, write_text
from ixt.runs.report.curves import draw_curves
from ixt.runs.report.folder import RunFolder, read_run
from ixt.runs.report.page import comparison_html, mistake_lines, run_html, target_lines
from ixt.runs.report.pictures import draw_sheet

REPORT = "report.html"
COMPARISON = Path("comparison.html")
_FILES = "report"


def write_report(run_dirs: Sequence[Path], output: Path | None = None) -> Path:
    """Write the report of a run, or of several side by side, from what lies in their folders.

    Args:
        run_dirs: at least one.
        output: the HTML file; if not given, report.html in the run's folder, with pictures in
            report/, and of several runs comparison.html in the working folder.

    Returns:
        The file.

    Raises:
        CheckpointError: a folder holds no run.
        DataError: the file cannot be written, or a run is given twice.
    """
    runs = [read_run(path) for path in run_dirs]
    if len({run.path for run in runs}) < len(runs):
        raise DataError("a run is given twice; give each once")
    if len(runs) > 1:
        output = output or COMPARISON
        write_text(output, comparison_html(runs))
        return output
    (run,), (run_dir,) = runs, run_dirs
    if output is not None:
        write_text(output, run_html(run))
        return output
    page = place = run_dir / REPORT
    try:
        replace_text(page, run_html(run), unique=True)
        place = run_dir / _FILES
        write_files(run, unique=True)
    except OSError as error:
        raise DataError(
            f"{place}: cannot be written ({reason(error)}); give another place with --output FILE"
        ) from error
    return page


def write_files(run: RunFolder, *, unique: bool = False) -> dict[str, Image.Image]:
    """Write curves as SVG and pictures as PNG files into report/ of a run; give the pictures.

    On `unique` see `published`: a run may write meanwhile.

    Raises:
        OSError: one cannot be written.
    """
    folder = run.path / _FILES
    folder.mkdir(exist_ok=True)
    for drawing in draw_curves([run]):
        name = drawing.title.lower().replace(" ", "_").replace("-", "")
        replace_text(folder / f"{name}.svg", drawing.svg, unique=unique)
    sheets = _sheets(run)
    for name, sheet in sheets.items():
        with published(folder / f"{name}.png", unique=unique) as beside:
            sheet.save(beside, "PNG", compress_level=1)
    return sheets


def _sheets(run: RunFolder) -> dict[str, Image.Image]:
    """The first batch and the mistakes, each as one picture."""
    batch, evaluation = run.first_batch, run.evaluation
    sheets = {}
    if batch is not None and batch.images:
        first = [(image.picture, target_lines(image.targets)) for image in batch.images]
        sheets["first_batch"] = draw_sheet(first, f"{run.name}: the first training batch")
    mistakes = evaluation.mistakes if evaluation is not None else []
    shown = [
        (mistake.picture, mistake_lines(mistake, evaluation.class_names))
        for mistake in mistakes
        if evaluation is not None and mistake.picture is not None
    ]
    if shown:
        sheets["mistakes"] = draw_sheet(shown, f"{run.name}: the most confident mistakes")
    return sheets
