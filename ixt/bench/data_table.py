"""What `ixt bench data` and `ixt bench e2e` print."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ixt.bench.end_to_end import EndToEndReport
from ixt.bench.stages import DataReport


def print_stages(report: DataReport) -> None:
    """A table for each setting, then the best one and the verdict."""
    console = Console()
    for setting, stages in report.stages.items():
        table = Table("stage", title=setting.name, title_justify="left")
        for heading in ("images/s", "CPU ms/image", "images/s per core", "RSS MiB"):
            table.add_column(heading, justify="right")
        for name, rate in stages.items():
            table.add_row(
                name,
                f"{rate.images_per_s:,.0f}",
                f"{rate.cpu_ms_per_image:.3f}",
                f"{rate.images_per_s_per_core:,.0f}",
                f"{rate.resident_mib:,.0f}",
            )
        console.print(table)
    if len(report.stages) > 1:
        print(f"best: {report.best.name}")
    print(report.verdict)
    print(f"{report.demand.device}: {report.demand.basis}")


def print_end_to_end(report: EndToEndReport) -> None:
    """A row for each mode, then the verdict."""
    table = Table("mode", title=f"batch {report.batch_size} on {report.device}")
    table.add_column("images/s", justify="right")
    table.add_column("settled")
    modes = {
        "loader and step": report.together,
        "step, synthetic batches": report.synthetic,
        "loader": report.loader,
    }
    for name, mode in modes.items():
        table.add_row(name, f"{mode.images_per_s:,.1f}", "yes" if mode.settled else "no")
    Console().print(table)
    print(report.verdict)
