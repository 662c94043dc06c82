"""`ixt data check`: survey the splits of a folder, say what was found, move what is broken."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ixt.errors import DataError
from ixt.images.folders import Split
from ixt.images.hold_out import own_splits
from ixt.images.index import Index, load_index
from ixt.images.progress_lines import Report
from ixt.storage.urls import is_remote
from ixt.tools.check.findings import (
    REMOVABLE,
    Finding,
    Kind,
    Severity,
    against_checksums,
    checksums,
    find,
    in_order,
    relative_paths,
)
from ixt.tools.check.manifest import read_checksums, write_checksums
from ixt.tools.check.quarantine import quarantine
from ixt.tools.check.survey import Survey, survey

_REMOTE_THREADS = 16  # they wait for the server

Progress = Callable[[str], AbstractContextManager[Report]]
"""Called with a split's folder; shows what is reported while that split is checked."""


@dataclass(frozen=True)
class CheckReport:
    """What a check found."""

    surveys: tuple[Survey, ...]
    """One for each split."""
    findings: tuple[Finding, ...]
    strict: bool
    """Corrupt files count as breaking training."""
    moved: tuple[tuple[str, str], ...] = ()
    """(from, to) of each file put into quarantine, relative to root."""
    manifest: str = ""
    """What was done with the list of checksums, in words; empty without one."""

    @property
    def root(self) -> Path | str:
        """The data root."""
        return self.surveys[0].index.root

    def severity(self, kind: Kind) -> Severity:
        """How grave a kind of finding is in this check."""
        if kind == Kind.CORRUPT and self.strict:
            return "breaks training"
        return kind.severity

    @property
    def breaking(self) -> tuple[Finding, ...]:
        """What would break training and has not been moved away."""
        gone = {origin for origin, _ in self.moved}
        return tuple(
            finding
            for finding in self.findings
            if self.severity(finding.kind) == "breaks training" and finding.path not in gone
        )

    def row(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        kinds = [finding.kind for finding in self.findings]
        return {
            "root": str(self.root),
            "clean": not self.breaking,
            "splits": [
                {
                    "folder": one.index.name,
                    "num_images": len(one.index),
                    "num_read": one.num_read,
                    "elapsed_s": one.elapsed_s,
                }
                for one in self.surveys
            ],
            "counts": {
                kind.value: {"severity": self.severity(kind), "num_files": kinds.count(kind)}
                for kind in Kind
            },
            "findings": [
                {**vars(finding), "severity": self.severity(finding.kind)}
                for finding in self.findings
            ],
            "manifest": self.manifest or None,
            "moved": [{"from": origin, "to": target} for origin, target in self.moved],
        }


def check_folder(
    root: str | Path,
    *,
    splits: Sequence[Split] = ("train", "val"),
    fix: Literal["quarantine"] | None = None,
    strict: bool = False,
    manifest: Path | None = None,
    num_threads: int | None = None,
    progress: Progress = lambda place: nullcontext(lambda done, total: None),
) -> CheckReport:
    """Decode every image of a folder and say what is wrong or odd about it.

    A file is read only if its length, modification time or inode differ from the last check's, and
    an image in a tar only if the tar's time or inode do.

    Args:
        root: as for `load_index`; in a bucket every image is read each time.
        splits: which of them to check; copies between train and val show only with both.
        fix: quarantine moves broken files to ROOT/.quarantine/; None moves nothing. Tars are left
            as they are.
        strict: count files that libjpeg only warns about as broken, too.
        manifest: a list of SHA-256 and path; every image is read and compared with it, or it is
            written where there is no such file.
        num_threads: CPU threads that decode; None for as many as this process may use.
        progress: shows the progress of each split.

    Raises:
        DataError: the folder is missing, has another layout, or a file cannot be moved; or
            images to move lie in tars or in a bucket, or are listed; or the manifest is none.
    """
    listed = read_checksums(manifest) if manifest is not None and manifest.exists() else None
    if is_remote(str(root)) and fix is not None:
        raise DataError(
            f"--fix {fix}: the images of {root} lie in a bucket, and nothing is moved there; "
            "leave it out"
        )
    threads = num_threads or _usual_threads(root)
    indexes = [load_index(root, split) for split in splits]
    for index in indexes if fix == "quarantine" else ():
        _refuse_to_move(index)
    surveys = []
    for index in indexes:
        with progress(index.place) as report:
            surveys.append(survey(index, threads, report, all_anew=manifest is not None))
    found, said = find(surveys), ""
    if listed is not None:
        said = f"{manifest}: {len(listed):,} checksums compared"
        whole = set(own_splits(str(root))) <= set(splits)
        found += against_checksums(surveys, listed, whole=whole)
    elif manifest is not None:
        said = _write_list(manifest, surveys)
    moved = _move(surveys, found, strict) if fix == "quarantine" else []
    if moved:
        found += _emptied(surveys, {origin for origin, _ in moved})
    return CheckReport(tuple(surveys), tuple(in_order(found)), strict, tuple(moved), said)


def _usual_threads(root: str | Path) -> int:
    """One per core; more where a bucket has to be waited for."""
    cores = len(os.sched_getaffinity(0))
    return max(cores, _REMOTE_THREADS) if is_remote(str(root)) else cores


def _write_list(manifest: Path, surveys: Sequence[Survey]) -> str:
    sums = checksums(surveys)
    write_checksums(manifest, sums)
    return f"{manifest}: {len(sums):,} checksums written; give it again to compare with them"


def _move(
    surveys: Sequence[Survey], found: Sequence[Finding], strict: bool
) -> list[tuple[str, str]]:
    """Put broken files into quarantine."""
    top = Path(surveys[0].index.root)
    kinds = REMOVABLE | {Kind.CORRUPT} if strict else REMOVABLE
    broken = [f for f in found if f.kind in kinds and os.path.lexists(top / f.path)]
    return quarantine(top, [(f.path, f"{f.kind}: {f.detail}") for f in broken])


def _refuse_to_move(index: Index) -> None:
    if index.list_name:
        raise DataError(
            f"--fix quarantine: {index.place} names the images, and would name files that are "
            "gone; leave it out, and remove their rows"
        )
    if index.shards:
        raise DataError(
            f"--fix quarantine: the images of {index.folder} lie in tars, which are left as they "
            "are; leave it out, or give the class folders that the tars come from"
        )


def _emptied(surveys: Sequence[Survey], gone: set[str]) -> Iterator[Finding]:
    """Class folders that have no image left, which no index can be built of."""
    for one in surveys:
        index = one.index
        labels = zip(relative_paths(one), index.labels.tolist(), strict=True)
        left = {label for path, label in labels if path not in gone}
        for label in sorted(set(range(len(index.classes))) - left):
            yield Finding(Kind.EMPTIED, f"{index.name}/{index.classes[label]}")
