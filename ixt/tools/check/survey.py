"""Decode every image of a split once, in parallel, but those that an earlier check has seen."""

from __future__ import annotations

import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ixt.images.byte_ranges import ByteRange
from ixt.images.index import Index
from ixt.images.progress_lines import Report
from ixt.storage.urls import is_remote
from ixt.tools.check.facts import Facts, Fault, explain_warning, inspect_image, stamp_of
from ixt.tools.check.manifest import read_manifest, write_manifest
from ixt.tools.check.stderr import CapturedStderr

_CHUNK = 64


@dataclass(frozen=True)
class Survey:
    """Every file of a split, as it is."""

    index: Index
    facts: list[Facts]
    """One per row of the index."""
    num_read: int
    """Files read now; the others have not changed since an earlier check."""
    elapsed_s: float


def survey(index: Index, num_threads: int, report: Report, *, all_anew: bool = False) -> Survey:
    """Look into each image of a split, a file of its own or a part of a tar.

    What was read is kept even when this is interrupted, so the next call continues from there.

    `report` is called with (files looked at, files in all). `all_anew` reads every file, for bytes
    that a disk damaged leave its stamp as it was.
    """
    start_s = time.monotonic()
    root = None if is_remote(str(index.root)) else Path(index.root)
    sources = index.ranges(range(len(index)))
    above = f"{index.folder}/"
    names = [os.fsencode(source.name.removeprefix(above)) for source in sources]
    known = {} if all_anew or root is None else read_manifest(root, index.name)
    found: dict[int, Facts] = {}
    num_read = 0
    try:
        num_read = _inspect(
            sources, [known.get(name) for name in names], found, num_threads, report
        )
    finally:
        kept = {name: found[row] for row, name in enumerate(names) if row in found}
        # An interrupted check must not forget what an earlier one found in the rest.
        if root is not None:
            write_manifest(root, index.name, known | kept if len(found) < len(names) else kept)
    facts = [found[row] for row in range(len(names))]
    return Survey(index, facts, num_read, time.monotonic() - start_s)


def _inspect(
    sources: list[ByteRange],
    known: list[Facts | None],
    found: dict[int, Facts],
    num_threads: int,
    report: Report,
) -> int:
    """Fill `found`, row by row; the number of files read."""
    suspects: dict[int, Facts] = {}
    num_read = 0

    def inspect_chunk(start: int) -> list[tuple[Facts, bool, bool]]:
        rows = range(start, min(start + _CHUNK, len(sources)))
        return [_inspect_one(sources[row], known[row], stderr) for row in rows]

    starts = range(0, len(sources), _CHUNK)
    with warnings.catch_warnings(), CapturedStderr() as stderr:
        # Pillow's remarks on odd metadata and huge images.
        warnings.simplefilter("ignore")
        pool = ThreadPoolExecutor(num_threads, thread_name_prefix="check")
        try:
            for start, chunk in zip(starts, pool.map(inspect_chunk, starts), strict=True):
                for row, (facts, suspected, read) in enumerate(chunk, start):
                    (suspects if suspected else found)[row] = facts
                    num_read += read
                report(start + len(chunk), len(sources))
        finally:
            pool.shutdown(cancel_futures=True)
        # The threads are gone: whatever is written from here on is about the file at hand.
        for row, facts in suspects.items():
            found[row] = explain_warning(sources[row], facts, stderr)
    return num_read


def _inspect_one(
    source: ByteRange, known: Facts | None, stderr: CapturedStderr
) -> tuple[Facts, bool, bool]:
    """The facts, whether they are open to suspicion, and whether the image was read."""
    # A permission or a server may be fixed without a trace in the stamp.
    reusable = known is not None and known.fault != Fault.UNREADABLE
    if known is not None and reusable and known.stamp == stamp_of(source):
        return known, False, False
    return *inspect_image(source, stderr), True
