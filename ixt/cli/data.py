"""`ixt data`: make, pack, check and look at image folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ixt.cli.app import app, resumable, say
from ixt.cli.help import App
from ixt.cli.options import advanced
from ixt.cli.progress import progress
from ixt.errors import DataError
from ixt.files import check_outputs, write_json
from ixt.storage.urls import REMOTE_FORMS, is_remote

if TYPE_CHECKING:
    from ixt.images.folders import Split
    from ixt.tools.prepare.task import SplitSummary

_MIB = 2**20


FolderArgument = Annotated[
    str,
    typer.Argument(
        help="Folder with train/ and val/, with lists or with WebDataset or parquet shards, or its "
        "URL in a bucket; or a list."
    ),
]
SplitOption = Annotated[
    Literal["train", "val", "all"], typer.Option(help="Training images, validation images, or all.")
]
ThreadsOption = Annotated[
    int | None, advanced(min=1, show_default="one per core", help="Number of decoding threads.")
]

data_app = App(
    help="""Prepare, check and look at sets of images.

    Example: `ixt data check /data/imagenet`"""
)
app.add_typer(data_app, name="data", rich_help_panel="Data")


@data_app.command("demo")
def data_demo(folder: Path) -> None:
    """Write a small set of handwritten digits, to try ixt out.

    The 1,797 digits of scikit-learn are written as JPEG files in the layout of ImageNet.

    Example: `ixt data demo demo-data`

    Args:
        folder: Folder to write.
    """
    from ixt.tools.demo import write_demo

    summary = write_demo(folder)
    say(
        f"{summary.root}: {summary.num_train} training and {summary.num_val} validation images, "
        f"{summary.num_written} written now"
    )


@data_app.command("index")
def data_index(
    folder: FolderArgument,
    rebuild: bool = False,
) -> None:
    """Build the table of images that training and evaluation read.

    Training builds it if it is missing, and rebuilds it after images were added or removed. An
    image that was replaced under the same name is not noticed: use --rebuild.

    Images can be files in class folders, the tar archives of ILSVRC2012 as downloaded, a set packed
    by `ixt data pack`, or WebDataset shards: NAME.jpg beside
    NAME.cls or NAME.json, in train/ and val/, or with train and val in the names of the tars. A
    line says what names the classes; their order is always that of the class numbers. A list
    (.csv, .tsv, .txt, .jsonl) names images anywhere, with a label for each, or several (cat;dog),
    and parquet files of the Hub contain them.

    All of these can lie in a bucket: s3://, gs://, az:// or hf://. Its index is kept in your cache;
    a list lies in the folder of its images there. Parquet files are read once for it from end to
    end.

    A brace pattern names some of the shards:
    `ixt data index 'DIR/set-{train-{0000..1023},validation-{00..63}}.tar'`

    Example: `ixt data index /data/imagenet`

    Args:
        rebuild: Read every image again, even if none seems new.
    """
    from ixt.images.index import load_index

    splits = splits_of("all", folder)
    for split in splits:
        with progress(f"reading {split}", "headers") as report:
            index = load_index(folder, split, report=report, rebuild=rebuild)
        say(
            f"{index.place}: {len(index):,} images, {len(index.classes):,} classes, "
            f"{len(index.unreadable):,} unreadable"
        )
    say_without_val("all", splits)


@data_app.command("prepare")
def data_prepare(
    out: Path,
    train: Path | None = None,
    val: Path | None = None,
    kaggle: Annotated[Path | None, typer.Option(metavar="DIR")] = None,
    transfer: Annotated[Literal["link", "move", "copy"], advanced()] = "link",
    verify: Annotated[bool, advanced()] = True,
    subset: Annotated[bool, advanced()] = False,
    delete_class_tars: Annotated[bool, advanced()] = False,
    num_threads: Annotated[int, advanced(min=1)] = 4,
) -> None:
    """Extract ImageNet into train/ and val/ with one folder per class.

    The source is either the two archives or a download from Kaggle. If the command was interrupted
    or the disk was full, run it again: it resumes where it stopped. train/ and val/ appear only
    when they are complete and the MD5 of the archive is correct.

    Without a source, it sorts the files in OUT: a val/ without class folders, and one tar per class
    in train/.

    Example: `ixt data prepare /data/imagenet --train ILSVRC2012_img_train.tar
    --val ILSVRC2012_img_val.tar`

    Args:
        out: Folder to fill. If it is incomplete, it is completed.
        train: Archive of the training images, ILSVRC2012_img_train.tar.
        val: Archive of the validation images, ILSVRC2012_img_val.tar.
        kaggle: Folder with the unpacked download from Kaggle; it contains ILSVRC/Data/CLS-LOC.
        transfer: How to take the images from --kaggle. link: hard links, which need no space.
        verify: Compare size and MD5 with those of the published archives.
        subset: Accept fewer images or classes; implies --no-verify.
        delete_class_tars: Delete each n*.tar in OUT/train after its extraction.
        num_threads: Number of classes to extract at the same time.
    """
    from ixt.tools.prepare.splits import prepare
    from ixt.tools.prepare.task import Options, Sources

    with resumable():
        prepare(
            out,
            Sources(train, val, kaggle),
            Options(
                verify=verify,
                subset=subset,
                transfer=transfer,
                delete_class_tars=delete_class_tars,
                num_threads=num_threads,
            ),
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
    source: str,
    out: Annotated[Path | None, typer.Argument(show_default=False)] = None,
    to: Annotated[str | None, typer.Option(metavar="URL")] = None,
    max_side: Annotated[int | None, typer.Option(min=32, max=65535, metavar="PIXELS")] = None,
    quality: Annotated[int, typer.Option(min=1, max=95)] = 90,
    shard_mib: Annotated[int, advanced(min=1, max=2**20)] = 1024,
    num_threads: Annotated[int | None, advanced(min=1, show_default="one per core")] = None,
) -> None:
    """Pack images into a few tar archives with an index.

    Training reads them from a disk with fewer files, or from a bucket; --to writes there and needs
    room for one archive here. If the command was interrupted, run it again: it resumes where it
    stopped. Compressed parquet files are first copied beside OUT, uncompressed, and the copy is
    removed in the end.

    Example: `ixt data pack /data/imagenet /data/imagenet-500 --max-side 500`

    Args:
        source: Images to pack, in any layout that training reads.
        out: Folder to write. If it is incomplete, it is completed.
        to: Write to this place in a bucket instead: s3://, gs:// or az://.
        max_side: Shrink the images whose longer side is longer than this.
        quality: JPEG quality of the shrunk images, from 1 to 95.
        shard_mib: Size of each tar archive in MiB.
        num_threads: Number of threads.
    """
    from ixt.tools.pack.layout import PackOptions
    from ixt.tools.pack.pack import pack

    place = to or out
    if place is None or (out is not None and to is not None):
        raise typer.BadParameter("give either a folder OUT or --to URL")
    if to is not None and not is_remote(to):
        raise DataError(f"--to: {to}: is not the URL of a bucket; give one as {REMOTE_FORMS}")
    options = PackOptions(max_side=max_side, quality=quality, shard_bytes=shard_mib * _MIB)
    with resumable(), progress("packing", "images") as report:
        summary = pack(source, place, options, num_threads=num_threads, report=report)
    unreadable = f", {summary.num_unreadable} unreadable" if summary.num_unreadable else ""
    say(
        f"{summary.root}: {summary.num_images:,} images ({summary.num_shrunk:,} made smaller"
        f"{unreadable}) in {summary.num_shards} tars, {summary.num_bytes / _MIB:.1f} MiB; "
        f"{summary.num_written} tars written now"
    )


@data_app.command("check")
def data_check(
    folder: FolderArgument,
    split: SplitOption = "all",
    fix: Literal["quarantine", "restore"] | None = None,
    strict: bool = False,
    manifest: Path | None = None,
    num_threads: ThreadsOption = None,
    results: Path | None = None,
) -> None:
    """Find images that are broken, unusual or duplicate.

    Every image is decoded once, in tar archives as well. The next check reads only the files that
    have changed; in a bucket, it reads all again. Images of packed sets are compared with their
    checksums. In class folders, only --manifest finds changed bits; it reads all files each time.

    Exit status: 0 if nothing stops training, 1 if something does, 2 if the folder cannot be
    checked.

    Example: `ixt data check /data/imagenet --results check.json`

    Args:
        fix: quarantine: move broken files to FOLDER/.quarantine. restore: move them back.
        strict: Treat files for which libjpeg only prints a warning as broken.
        manifest: List of the SHA-256 of each file. If it exists, the files are compared with it,
            else it is written.
        results: Write all findings to this file, as JSON.
    """
    from ixt.files import local_path
    from ixt.tools.check.folder import check_folder
    from ixt.tools.check.quarantine import restore
    from ixt.tools.check.table import print_report

    check_outputs(results, None if manifest is None or manifest.exists() else manifest)
    if fix == "restore":
        moved = restore(local_path(folder))
        say(f"{folder}: {len(moved)} files moved back")
        return
    splits = splits_of(split, folder)
    with resumable():
        report = check_folder(
            folder,
            splits=splits,
            fix=fix,
            strict=strict,
            manifest=manifest,
            num_threads=num_threads,
            progress=lambda place: progress(place, "images"),
        )
    print_report(report)
    say_without_val(split, splits)
    if results is not None:
        write_json(results, report.row())
    raise typer.Exit(1 if report.breaking else 0)


def splits_of(choice: Literal["train", "val", "all"], root: str) -> tuple[Split, ...]:
    """The splits that `--split` names; of all, those that are there."""
    if choice != "all":
        return (choice,)
    from ixt.images.hold_out import own_splits

    try:
        return own_splits(root)
    except OSError:  # said in one line where the images are listed
        return ("train", "val")


def say_without_val(choice: Literal["train", "val", "all"], splits: tuple[Split, ...]) -> None:
    """Say that a set has no validation images, where all of its images were wanted."""
    if choice == "all" and "val" not in splits:
        say(
            "there is no val/, only images to train on; `ixt init` writes a recipe that holds some "
            "of them out for validation",
            error=True,
        )
