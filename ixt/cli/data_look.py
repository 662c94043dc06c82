"""`ixt data check`, `stats` and `show`: what an image folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ixt.cli.app import check_outputs, resumable, write_json
from ixt.cli.data import data_app
from ixt.cli.options import DecoderOption, SetOption, ThreadsOption
from ixt.cli.progress import progress

if TYPE_CHECKING:
    from ixt.images.folders import Split

FolderArgument = Annotated[str, typer.Argument(help="Folder with train/ and val/, or s3://...")]
SplitOption = Annotated[Literal["train", "val", "all"], typer.Option(help="Which split.")]
ResultsOption = Annotated[Path | None, typer.Option(help="Write the numbers to this file.")]


@data_app.command("check")
def data_check(
    folder: Annotated[str, typer.Argument(help="Folder with train/ and val/.")],
    split: SplitOption = "all",
    fix: Annotated[
        Literal["quarantine", "restore"] | None,
        typer.Option(help="quarantine: move broken files to DIR/.quarantine; restore: back."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Take files that libjpeg only warns of as broken.")
    ] = False,
    num_threads: ThreadsOption = None,
    results: Annotated[Path | None, typer.Option(help="Write all findings to this file.")] = None,
) -> None:
    """Decode every image once and say which are broken, odd or there twice, in tars as well.

    The next check reads only what has changed. Exit status: 0 if nothing breaks training,
    1 if something does, 2 if the folder cannot be checked.

    Example: `ixt data check /data/imagenet --results check.json`
    """
    from ixt.files import local_path
    from ixt.tools.check import check_folder, print_report, restore

    check_outputs(results)
    if fix == "restore":
        moved = restore(local_path(folder))
        print(f"{folder}: {len(moved)} files moved back")
        return
    with resumable():
        report = check_folder(
            folder,
            splits=_splits(split),
            fix=fix,
            strict=strict,
            num_threads=num_threads,
            progress=lambda place: progress(place, "images"),
        )
    print_report(report)
    if results is not None:
        write_json(results, report.row())
    raise typer.Exit(1 if report.breaking else 0)


def _splits(choice: Literal["train", "val", "all"]) -> tuple[Split, ...]:
    return ("train", "val") if choice == "all" else (choice,)


@data_app.command("stats")
def data_stats(
    folder: FolderArgument,
    mean_std: Annotated[
        bool, typer.Option("--mean-std", help="Decode the images for mean and std of the pixels.")
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="Take mean and std over this many images, always the same."),
    ] = None,
    split: SplitOption = "all",
    num_threads: ThreadsOption = None,
    results: ResultsOption = None,
) -> None:
    """Show how many images and classes there are, how large, how even; the index tells it all.

    Mean and std, on request, are over every pixel of whole images, not resized.

    Example: `ixt data stats /data/imagenet --mean-std --sample 10000`
    """
    from ixt.images.index import load_index
    from ixt.tools.stats.split import split_stats
    from ixt.tools.stats.table import print_stats

    check_outputs(results)
    rows = {}
    for name in _splits(split):
        index = load_index(folder, name)
        pixels = None
        if mean_std or sample is not None:
            from ixt.tools.stats.pixels import pixel_stats

            with progress(index.place, "images") as report:
                pixels = pixel_stats(index, sample=sample, num_threads=num_threads, report=report)
        stats = split_stats(index, pixels, name)
        print_stats(stats, index.root)
        rows[name] = stats.row()
    if results is not None:
        write_json(results, rows)


@data_app.command("show")
def data_show(
    folder: FolderArgument,
    recipe: Annotated[
        str, typer.Option(help="A YAML file, a shipped recipe's name, or the folder of a run.")
    ] = "inceptionnext_tiny",
    epoch: Annotated[int, typer.Option(min=0, help="Epoch of training.")] = 0,
    position: Annotated[int, typer.Option(min=0, help="First place in its order.")] = 0,
    count: Annotated[int, typer.Option("--count", "--grid", min=1, help="How many.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Draw them into this PNG file.")] = None,
    original: Annotated[
        bool, typer.Option("--original", help="Draw the stored image beside each.")
    ] = False,
    split: Annotated[
        Literal["train", "val"], typer.Option(help="val: as the evaluation sees it.")
    ] = "train",
    decoder: DecoderOption = "auto",
    overrides: SetOption = None,
    results: ResultsOption = None,
) -> None:
    """Show samples as the network gets them: what was planned for each, and a picture.

    Example: `ixt data show /data/imagenet --recipe runs/inceptionnext_tiny --epoch 7
    --position 12345 --grid 12 --out samples.png`
    """
    from ixt.errors import IxtError
    from ixt.recipe import RUN_RECIPE, find_recipe, load_recipe
    from ixt.tools.show import draw_grid, print_samples, require_png, take_samples, write_png

    require_png("--out", out)
    check_outputs(out, results)
    if original and out is None:
        raise IxtError("--original draws into a picture; add --out FILE.png")
    if epoch and split == "val":
        raise IxtError("--epoch means nothing for --split val; leave it out")
    stored = Path(recipe) / RUN_RECIPE
    settings = load_recipe(stored if stored.is_file() else find_recipe(recipe), overrides or ())
    samples = take_samples(folder, split, settings, epoch, position, count, decoder)
    print_samples(samples)
    if out is not None:
        when = split if split == "val" else f"{split}, epoch {epoch}"
        title = f"{Path(recipe).stem}: {when}, positions {position} to {position + count - 1}"
        write_png(out, draw_grid(samples, title, originals=original))
        print(out)
    if results is not None:
        write_json(results, [sample.row() for sample in samples])
