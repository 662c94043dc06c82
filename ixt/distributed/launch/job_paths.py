"""Which paths of a run its machines can reach: mounted in a container, or in a bucket."""

from __future__ import annotations

from pathlib import Path

from ixt.errors import EngineError
from ixt.files import as_url, local_path


def mounts(root: str | None, others: list[Path]) -> list[Path]:
    """What a container has to mount, so that each path of a run is the same inside.

    `root` is where the images are: an absolute path, a list, a brace pattern of shards, or a URL.
    `others` are absolute paths.
    """
    paths = [*others]
    if root is not None and as_url(root) is None:
        # All shards of a pattern lie in the folder before its first brace, and what a list names
        # beside it.
        before, brace, _ = root.partition("{")
        alone = not brace and not Path(root).is_file()
        paths.append(local_path(root) if alone else local_path(before + "x").parent)
    return sorted(set(paths))


def refuse_relative(key: str, path: str | Path) -> None:
    """Refuse a path that no volume of a container can hold.

    Raises:
        EngineError: it is neither an absolute path nor a URL.
    """
    if as_url(path) is None and not Path(path).is_absolute():
        raise EngineError(
            f"{key}: {str(path)!r} is relative, so it would be lost with its container; give an "
            "absolute path that is mounted there"
        )


def refuse_own_disk(key: str, place: str | Path | None, example: str) -> None:
    """Refuse what machines that are rented for a run can neither read nor keep.

    Raises:
        EngineError: it is not in a bucket.
    """
    if place is None or as_url(place) is None:
        found = "not given" if place is None else f"{str(place)!r} is on the disk of one machine"
        raise EngineError(
            f"{key}: {found}; rented machines share only buckets, give e.g. {key} {example}"
        )
