"""Remember what a check found in each file, so that the next one reads only what has changed.

And the lists of checksums that a user keeps: lines of SHA-256 and path, as of sha256sum.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixt.errors import DataError
from ixt.files import published, reason, write_text
from ixt.images.headers import ImageFormat
from ixt.images.index_cache import cache_folders, write_to_cache
from ixt.images.index_table import join_paths
from ixt.tools.check.facts import DIGEST_BYTES, Colour, Facts, Fault

FORMAT_VERSION = 2

# As GNU sha256sum writes it; a backslash in front says that the path holds some, too.
_LINE = re.compile(r"(\\?)([0-9a-f]{64}) [ *](?:\./)?(.+)", re.DOTALL)
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


def read_manifest(root: Path, split: str) -> dict[bytes, Facts]:
    """What earlier checks found, by path relative to the split's folder; empty if there is none."""
    for cache in cache_folders(root):
        try:
            # Of a file that it opened itself and cannot read, numpy leaves the closing to chance.
            with (
                _file(cache, split).open("rb") as file,
                np.load(file, allow_pickle=False) as columns,
            ):
                if int(columns["format_version"]) == FORMAT_VERSION:
                    return _rows({name: columns[name] for name in columns.files})
        except Exception:  # numpy and zipfile raise nearly anything on a damaged file
            continue
    return {}


def write_manifest(root: Path, split: str, facts: Mapping[bytes, Facts]) -> None:
    """Keep what was found, in the first place that can be written; warn if there is none."""

    def write(cache: Path) -> None:
        path = _file(cache, split)
        with published(path, unique=True) as unfinished, unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, **_columns(facts))

    lost = "what the check found is not kept (%s), so the next one reads every file again"
    write_to_cache(root, write, lost)


def write_checksums(file: Path, digests: Mapping[str, bytes]) -> None:
    """Write a list of checksums that `sha256sum -c` and `read_checksums` read.

    `digests`: SHA-256 by path.

    Raises:
        DataError: it cannot be written.
    """
    lines = []
    for path, digest in digests.items():
        escaped = "".join(_ESCAPES.get(character, character) for character in path)
        lines.append(f"{'' if escaped == path else chr(92)}{digest.hex()}  {escaped}\n")
    write_text(file, "".join(lines))


def read_checksums(file: Path) -> dict[str, bytes]:
    """Read a list of checksums: SHA-256 by path.

    Raises:
        DataError: it cannot be read, or a line is not one of SHA-256 and path.
    """
    try:
        lines = file.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({reason(error)})") from error
    digests = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is not None:
            path = re.sub(r"\\(.)", _unescaped, match[3]) if match[1] else match[3]
            digests[path] = bytes.fromhex(match[2])
        elif line:
            raise DataError(
                f"{file}:{number}: is not a SHA-256, two spaces and a path; give a list that "
                "ixt data check --manifest or sha256sum wrote, or a new name"
            )
    return digests


def _unescaped(match: re.Match[str]) -> str:
    return {"n": "\n", "r": "\r"}.get(match[1], match[1])


def _file(cache: Path, split: str) -> Path:
    return cache / f"check-{split}.npz"


def _columns(facts: Mapping[bytes, Facts]) -> dict[str, NDArray[Any]]:
    rows = list(facts.values())
    path_blob, path_offsets = join_paths(list(facts))
    detail_blob, detail_offsets = join_paths([row.detail.encode() for row in rows])
    digests = np.frombuffer(b"".join(row.digest for row in rows), np.uint8)
    codes = [(r.fault, r.image_format, r.colour, r.orientation) for r in rows]
    return {
        "format_version": np.array(FORMAT_VERSION),
        "path_blob": path_blob,
        "path_offsets": path_offsets,
        "detail_blob": detail_blob,
        "detail_offsets": detail_offsets,
        "stamps": np.array([row.stamp for row in rows], np.int64).reshape(-1, 3),
        "digests": digests.reshape(-1, DIGEST_BYTES),
        "codes": np.array(codes, np.uint8).reshape(-1, 4),
        "sizes": np.array([(r.height, r.width) for r in rows], np.int32).reshape(-1, 2),
    }


def _rows(columns: dict[str, NDArray[Any]]) -> dict[bytes, Facts]:
    paths = _split(columns["path_blob"], columns["path_offsets"])
    details = _split(columns["detail_blob"], columns["detail_offsets"])
    digests = columns["digests"].tobytes()
    stamps, codes, sizes = (columns[name].tolist() for name in ("stamps", "codes", "sizes"))
    return {
        path: Facts(
            tuple(stamp),
            digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES],
            Fault(fault),
            detail.decode(),
            ImageFormat(image_format),
            Colour(colour),
            orientation,
            *size,
        )
        for number, (path, detail, stamp, (fault, image_format, colour, orientation), size) in (
            enumerate(zip(paths, details, stamps, codes, sizes, strict=True))
        )
    }


def _split(blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Sequence[bytes]:
    content, ends = blob.tobytes(), offsets.tolist()
    return [content[start:end] for start, end in pairwise(ends)]
