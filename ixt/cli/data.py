"""`ixt data`: make and index image folders; the larger commands have modules of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import app
from ixt.cli.progress import progress

data_app = typer.Typer(no_args_is_help=True, help="Prepare and look at image folders.")
app.add_typer(data_app, name="data", rich_help_panel="Data")


@data_app.command("demo")
def data_demo(folder: Annotated[Path, typer.Argument(help="Folder to write.")]) -> None:
    """Write scikit-learn's handwritten digits as JPEG files in the ImageNet layout."""
    from ixt.tools.demo import write_demo

    summary = write_demo(folder)
    print(
        f"{summary.root}: {summary.num_train} training and {summary.num_val} validation images, "
        f"{summary.num_written} written now"
    )


@data_app.command("index")
def data_index(
    folder: Annotated[str, typer.Argument(help="Folder with train/ and val/, or s3://...")],
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Look at every image again: some were replaced.")
    ] = False,
) -> None:
    """Build and cache the table of images that training and evaluation read.

    It is built anew by itself when images come or go; one that is replaced in place shows nowhere,
    so say --rebuild then.

    Images may be files in class folders, the tars of ILSVRC2012 as they were downloaded, or what
    `ixt data pack` wrote, here or in a bucket.
    """
    from ixt.images.index import load_index

    for split in ("train", "val"):
        with progress(f"reading {split}", "headers") as report:
            index = load_index(folder, split, report=report, rebuild=rebuild)
        print(
            f"{index.place}: {len(index):,} images, {len(index.classes):,} classes, "
            f"{len(index.unreadable):,} unreadable"
        )
