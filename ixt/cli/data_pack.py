"""`ixt data pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import resumable
from ixt.cli.data import data_app
from ixt.cli.progress import progress

_MIB = 2**20


@data_app.command("pack")
def data_pack(
    source: Annotated[str, typer.Argument(help="Data to pack, in any layout that training reads.")],
    out: Annotated[Path, typer.Argument(help="New folder, or one whose packing was cut off.")],
    max_side: Annotated[
        int | None,
        typer.Option(min=32, help="Shrink images whose longer side has more pixels; others stay."),
    ] = None,
    quality: Annotated[
        int, typer.Option(min=1, max=95, help="JPEG quality of images that are shrunk.")
    ] = 90,
    shard_mib: Annotated[int, typer.Option(min=1, help="Size of a shard.")] = 1024,
    num_threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; one per core if not given.")
    ] = None,
) -> None:
    """Pack images into tars with an index, for training from fewer files or from a bucket.

    Example: `ixt data pack /data/imagenet /data/imagenet-500 --max-side 500`
    """
    from ixt.tools.pack.layout import PackOptions
    from ixt.tools.pack.pack import pack

    options = PackOptions(max_side=max_side, quality=quality, shard_bytes=shard_mib * _MIB)
    with resumable(), progress("packing", "images") as report:
        summary = pack(source, out, options, num_threads=num_threads, report=report)
    unreadable = f", {summary.num_unreadable} unreadable" if summary.num_unreadable else ""
    print(
        f"{summary.root}: {summary.num_images:,} images ({summary.num_shrunk:,} made smaller"
        f"{unreadable}) in {summary.num_shards} tars, {summary.num_bytes / _MIB:.1f} MiB; "
        f"{summary.num_written} tars written now"
    )
