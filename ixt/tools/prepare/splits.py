"""Prepare an ImageNet folder: check what was given, bring each split, check what is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

from ixt.errors import DataError
from ixt.files import local_path, reason
from ixt.images.folders import Split
from ixt.tools.prepare.archives import class_tars
from ixt.tools.prepare.extract import Extraction, Meter, StreamSum, run_jobs, train_jobs, val_jobs
from ixt.tools.prepare.folders import (
    count_images,
    extract_packed,
    packed_classes,
    sort_flat,
    transfer,
)
from ixt.tools.prepare.sources import check_given, check_sources, compare_sums, kaggle_folder
from ixt.tools.prepare.staging import (
    Origin,
    Place,
    Record,
    claimed,
    finish,
    is_published,
    num_bytes_below,
    open_place,
    origin_of,
    packed_place,
    read_record,
    split_folder,
    write_record,
)
from ixt.tools.prepare.task import (
    ILSVRC2012,
    SPLITS,
    ArchiveSet,
    Options,
    Progress,
    Sources,
    SplitSummary,
    Task,
)


def prepare(
    root: str | Path,
    sources: Sources,
    options: Options | None = None,
    published: ArchiveSet = ILSVRC2012,
    on_split: Callable[[SplitSummary], None] = lambda summary: None,
    progress: Progress = lambda title: nullcontext(lambda done, total: None),
) -> tuple[SplitSummary, ...]:
    """Make OUT/train and OUT/val with one folder per class, or complete what was begun.

    It can be killed at any point: the same call continues where it stopped, and until a split is
    complete and its tar's MD5 is right nothing of it shows in a new OUT/SPLIT.

    `root` is new, empty, or a set that was begun: by this function, with images or class tars in
    train/, or with a flat val/. `published` is what the archives and counts must be; `on_split` is
    called with each split that is done.

    Returns:
        One summary per split that OUT holds.

    Raises:
        DataError: a source is not what it should be, the disk is full, OUT cannot be written, or
            counts differ from the published ones.
    """
    options = options or Options()
    root = local_path(root)
    summaries = []
    try:
        check_given(sources)
        with claimed(root):
            task = Task(root, sources, options, published, published.labels(), progress)
            finished = {split: _finished(task, split) for split in SPLITS}
            check_sources(task, [split for split in SPLITS if finished[split] is None])
            for split in SPLITS:
                summary = finished[split] or _prepare_split(task, split)
                if summary is not None:
                    on_split(summary)
                    summaries.append(summary)
    except OSError as error:
        raise DataError(
            f"{error.filename or root}: {reason(error)}; what is "
            "written is kept: make room or allow it, and give the same command again"
        ) from error
    if not summaries:
        raise DataError(f"{root}: holds neither train/ nor val/; give --train, --val or --kaggle")
    return tuple(summaries)


def _finished(task: Task, split: Split) -> SplitSummary | None:
    """Summary of a split that an earlier call completed from the same source."""
    start_s = time.monotonic()
    record = read_record(task.root, split)
    source = _origin(task, split)
    if record is None or source not in (None, record.origin):
        return None
    if task.options.check_sums and task.sources.tar(split) and record.md5 is None:
        return None
    if count_images(split_folder(task.root, split)) != record.counts:
        return None
    if not is_published(task.root, split):  # killed between its first and its last rename
        return None
    _check_counts(task, split, record.counts, str(split_folder(task.root, split)))
    return _summary(task, split, record, 0, start_s)


def _prepare_split(task: Task, split: Split) -> SplitSummary | None:
    start_s = time.monotonic()
    folder = split_folder(task.root, split)
    num_sorted = sort_flat(folder, task.labels) if split == "val" else 0
    origin = _origin(task, split)
    if origin is None:
        return _prepare_in_place(task, split, num_sorted, start_s)
    place = open_place(task.root, split, origin)
    tar = task.sources.tar(split)
    source, md5 = Path(origin.name), None
    with task.progress(split) as report:
        meter = Meter(origin.num_bytes if tar else num_bytes_below(source), report)
        if tar is not None:
            counts, md5 = _extract(task, split, tar, place, meter)
        else:
            counts = transfer(source, place, split, task.labels, task.options, meter)
    _check_counts(task, split, counts, str(tar or origin.name))
    record = Record(origin, md5, dict(sorted(counts.items())))
    finish(task.root, split, place, record)
    _check_found(split_folder(task.root, split), record.counts)
    return _summary(task, split, record, num_sorted + meter.num_written, start_s)


def _extract(
    task: Task, split: Split, tar: Path, place: Place, meter: Meter
) -> tuple[Mapping[str, int], str | None]:
    """Stage a tar; its counts, and its sum if that is to be compared."""
    record = read_record(task.root, split)
    archive = task.published.archive(split)
    known = record is not None and record.origin == origin_of(tar) and record.md5 == archive.md5
    with tar.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        check = task.options.check_sums and not known
        stream_sum = StreamSum(descriptor, tar) if check else None
        extraction = Extraction(descriptor, tar, place, meter)
        if split == "train":
            jobs = train_jobs(extraction, class_tars(descriptor, tar))
        else:
            jobs = val_jobs(extraction, task.labels)
        counts = run_jobs(jobs, extraction.stop, task.options.num_threads, stream_sum)
        found = stream_sum.hexdigest() if stream_sum else None
    if found is not None:
        kept = f"nothing of it shows in {place.final} ({place.staged} holds what was extracted); "
        compare_sums(tar, archive, found, kept)
    return counts, archive.md5 if check or known else None


def _prepare_in_place(
    task: Task, split: Split, num_sorted: int, start_s: float
) -> SplitSummary | None:
    """Complete a split from what lies in its folder."""
    folder = split_folder(task.root, split)
    tars = packed_classes(folder) if split == "train" else []
    num_written = num_sorted
    if tars:
        with task.progress("class tars") as report:
            meter = Meter(sum(tar.stat().st_size for tar in tars), report)
            extract_packed(tars, packed_place(task.root, folder), meter, task.options)
        is_published(task.root, split)
        num_written += meter.num_written
    counts = count_images(folder)
    if not counts:
        return None
    _check_counts(task, split, counts, str(folder))
    record = Record(Origin(str(folder), 0, 0), None, counts)
    if num_written:
        write_record(task.root, split, record)
    return _summary(task, split, record, num_written, start_s)


def _origin(task: Task, split: Split) -> Origin | None:
    tar = task.sources.tar(split)
    if tar is not None:
        return origin_of(tar)
    if task.sources.kaggle is None:
        return None
    folder = kaggle_folder(task.sources.kaggle) / split
    # Moving its images changes the times of a folder, so its path alone stands for it.
    return Origin(str(folder.resolve()), 0, 0) if folder.is_dir() else None


def _check_counts(task: Task, split: Split, counts: Mapping[str, int], where: str) -> None:
    num_images, num_classes = task.published.num_images(split), task.published.num_classes
    found = (sum(counts.values()), len(counts))
    if found != (num_images, num_classes) and not task.options.subset:
        missing = "unpack all of Kaggle's archive" if task.sources.kaggle else f"give --{split}"
        raise DataError(
            f"{where}: {found[0]:,} images in {found[1]:,} classes; the whole {split} set has "
            f"{num_images:,} in {num_classes:,}; {missing}, or --subset if fewer are meant"
        )


def _check_found(folder: Path, wanted: Mapping[str, int]) -> None:
    """After all is published: nothing else may lie there, as it would be trained on."""
    found = count_images(folder)
    for name in sorted(found.keys() | wanted):
        if found.get(name, 0) != wanted.get(name, 0):
            raise DataError(
                f"{folder / name}: holds {found.get(name, 0):,} images, its source "
                f"{wanted.get(name, 0):,}; remove what does not belong to the set, then give the "
                "same command again"
            )


def _summary(
    task: Task, split: Split, record: Record, num_written: int, start_s: float
) -> SplitSummary:
    num_images, num_classes = sum(record.counts.values()), len(record.counts)
    wanted = (task.published.num_images(split), task.published.num_classes)
    return SplitSummary(
        folder=split_folder(task.root, split),
        num_images=num_images,
        num_classes=num_classes,
        num_written=num_written,
        elapsed_s=time.monotonic() - start_s,
        is_published=(num_images, num_classes) == wanted,
        md5=record.md5,
    )
