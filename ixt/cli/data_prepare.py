"""`ixt data prepare`: ImageNet's archives to class folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ixt.cli.app import resumable
from ixt.cli.data import data_app
from ixt.cli.progress import progress

if TYPE_CHECKING:
    from ixt.tools.prepare import SplitSummary


@data_app.command("prepare")
def data_prepare(
    out: Annotated[Path, typer.Argument(help="Folder to fill; one that was begun is completed.")],
    train: Annotated[Path | None, typer.Option(help="ILSVRC2012_img_train.tar.")] = None,
    val: Annotated[Path | None, typer.Option(help="ILSVRC2012_img_val.tar.")] = None,
    devkit: Annotated[
        Path | None,
        typer.Option(help="ILSVRC2012_devkit_t12.tar.gz: labels of val; shipped ones if left out."),
    ] = None,
    kaggle: Annotated[
        Path | None, typer.Option(help="Folder unpacked from Kaggle, with ILSVRC/Data/CLS-LOC.")
    ] = None,
    transfer: Annotated[
        Literal["link", "move", "copy"],
        typer.Option(help="How images come from --kaggle; link: hard links, no space needed."),
    ] = "link",
    verify: Annotated[
        bool, typer.Option(help="Compare size and MD5 with the published archives.")
    ] = True,
    subset: Annotated[
        bool, typer.Option("--subset", help="Accept fewer images or classes; implies --no-verify.")
    ] = False,
    delete_class_tars: Annotated[
        bool,
        typer.Option("--delete-class-tars", help="Delete n*.tar in OUT/train once extracted."),
    ] = False,
    num_threads: Annotated[int, typer.Option(min=1, help="Classes extracted at a time.")] = 4,
) -> None:
    """Make train/ and val/ with one folder per class from ImageNet's tars or Kaggle's folders.

    Killed or out of disk, it goes on where it stopped when given the same command again; a new
    train/ or val/ appears when all of it is there and the tar's MD5 is right. Without sources it
    sorts what lies in OUT: a flat val/, class tars in train/.
    """
    from ixt.tools.prepare import Options, Sources, prepare

    options = Options(verify, subset, transfer, delete_class_tars, num_threads)
    sources = Sources(train, val, devkit, kaggle)
    with resumable():
        prepare(
            out,
            sources,
            options,
            on_split=lambda done: print(_split_line(done), flush=True),
            progress=lambda title: progress(title, "MB"),
        )


def _split_line(done: SplitSummary) -> str:
    if done.md5:
        source = f", MD5 {done.md5} as published"
    else:
        source = "" if done.is_published else "; not the published set"
    return (
        f"{done.folder}: {done.num_images:,} images in {done.num_classes:,} classes, "
        f"{done.num_written:,} brought now in {done.elapsed_s:.1f} s{source}"
    )
