"""`ixt data`: make, pack, check and look at image folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ixt.cli.app import app, resumable, say
from ixt.cli.options import DecoderOption, SetOption
from ixt.cli.progress import progress
from ixt.files import check_outputs, write_json

if TYPE_CHECKING:
    from ixt.images.folders import Split
    from ixt.tools.prepare import SplitSummary

_MIB = 2**20

FolderArgument = Annotated[
    str, typer.Argument(help="Folder with train/ and val/ or with WebDataset shards, or s3://...")
]
SplitOption = Annotated[Literal["train", "val", "all"], typer.Option(help="Which split.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Decoding threads; one per core if not given.")
]
ResultsOption = Annotated[Path | None, typer.Option(help="Write the numbers to this file.")]

data_app = typer.Typer(no_args_is_help=True, help="Prepare and look at image folders.")
app.add_typer(data_app, name="data", rich_help_panel="Data")


@data_app.command("demo")
def data_demo(folder: Annotated[Path, typer.Argument(help="Folder to write.")]) -> None:
    """Write scikit-learn's handwritten digits as JPEG files in the ImageNet layout."""
    from ixt.tools.demo import write_demo

    summary = write_demo(folder)
    say(
        f"{summary.root}: {summary.num_train} training and {summary.num_val} validation images, "
        f"{summary.num_written} written now"
    )


@data_app.command("index")
def data_index(
    folder: FolderArgument,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Look at every image again: some were replaced.")
    ] = False,
) -> None:
    """Build and cache the table of images that training and evaluation read.

    It is rebuilt by itself when images are added or removed; an image replaced in place is not
    noticed, so give --rebuild then.

    Images may be files in class folders, the tars of ILSVRC2012 as they were downloaded, what
    `ixt data pack` wrote, here or in a bucket, or WebDataset shards: NAME.jpg beside NAME.cls or
    NAME.json, in train/ and val/, or with train and val in the names of the tars. A line says by
    what their classes are named; the order is always that of the class numbers.

    A brace pattern names some of the shards:
    `ixt data index 'DIR/set-{train-{0000..1023},validation-{00..63}}.tar'`
    """
    from ixt.images.index import load_index

    for split in ("train", "val"):
        with progress(f"reading {split}", "headers") as report:
            index = load_index(folder, split, report=report, rebuild=rebuild)
        say(
            f"{index.place}: {len(index):,} images, {len(index.classes):,} classes, "
            f"{len(index.unreadable):,} unreadable"
        )


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

    Killed or out of disk, it resumes where it stopped when given the same command again; a new
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
            on_split=lambda done: say(_split_line(done)),
            progress=lambda title: progress(title, "MB"),
        )


def _split_line(done: SplitSummary) -> str:
    if done.md5:
        source = f", MD5 {done.md5} as published"
    else:
        source = "" if done.is_published else "; not the published set"
    return (
        f"{done.folder}: {done.num_images:,} images in {done.num_classes:,} classes, "
        f"{done.num_written:,} copied in this run, {done.elapsed_s:.1f} s{source}"
    )


@data_app.command("pack")
def data_pack(
    source: Annotated[str, typer.Argument(help="Data to pack, in any layout that training reads.")],
    out: Annotated[Path, typer.Argument(help="New folder, or one whose packing was cut off.")],
    max_side: Annotated[
        int | None,
        typer.Option(
            min=32, max=65_535, help="Shrink images whose longer side has more pixels; others stay."
        ),
    ] = None,
    quality: Annotated[
        int, typer.Option(min=1, max=95, help="JPEG quality of images that are shrunk.")
    ] = 90,
    shard_mib: Annotated[int, typer.Option(min=1, max=2**20, help="Size of a shard.")] = 1024,
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
    say(
        f"{summary.root}: {summary.num_images:,} images ({summary.num_shrunk:,} made smaller"
        f"{unreadable}) in {summary.num_shards} tars, {summary.num_bytes / _MIB:.1f} MiB; "
        f"{summary.num_written} tars written now"
    )


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
    manifest: Annotated[
        Path | None,
        typer.Option(help="List of SHA-256 and path: written if missing, else compared with."),
    ] = None,
    num_threads: ThreadsOption = None,
    results: Annotated[Path | None, typer.Option(help="Write all findings to this file.")] = None,
) -> None:
    """Decode every image once and say which are broken, odd or duplicate, in tars as well.

    Images of packed sets are compared with their checksums; of files in class folders, flipped
    bits show only beside a --manifest. The next check reads only what has changed, with a
    --manifest everything. Exit status: 0 if nothing breaks training,
    1 if something does, 2 if the folder cannot be checked.

    Example: `ixt data check /data/imagenet --results check.json`
    """
    from ixt.files import local_path
    from ixt.tools.check import check_folder, print_report, restore

    check_outputs(results, None if manifest is None or manifest.exists() else manifest)
    if fix == "restore":
        moved = restore(local_path(folder))
        say(f"{folder}: {len(moved)} files moved back")
        return
    with resumable():
        report = check_folder(
            folder,
            splits=_splits(split),
            fix=fix,
            strict=strict,
            manifest=manifest,
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
    from ixt.tools.stats import pixel_stats, print_stats, split_stats

    check_outputs(results)
    rows = {}
    for name in _splits(split):
        index = load_index(folder, name)
        pixels = None
        if mean_std or sample is not None:
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
    epoch: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Epoch of training.")] = 0,
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
    from ixt.models import with_own_settings
    from ixt.recipe import RUN_RECIPE, find_recipe, load_recipe
    from ixt.tools.show import draw_grid, print_samples, require_png, take_samples, write_png

    require_png("--out", out)
    check_outputs(out, results)
    if original and out is None:
        raise IxtError("--original draws into a picture; add --out FILE.png")
    if epoch and split == "val":
        raise IxtError("--epoch means nothing for --split val; leave it out")
    stored = Path(recipe) / RUN_RECIPE
    found = load_recipe(stored if stored.is_file() else find_recipe(recipe), overrides or ())
    settings = with_own_settings(found)
    samples = take_samples(folder, split, settings, epoch, position, count, decoder)
    print_samples(samples)
    if out is not None:
        when = split if split == "val" else f"{split}, epoch {epoch}"
        title = f"{Path(recipe).stem}: {when}, positions {position} to {position + count - 1}"
        write_png(out, draw_grid(samples, title, originals=original))
        say(str(out))
    if results is not None:
        write_json(results, [sample.row() for sample in samples])
