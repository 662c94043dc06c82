"""Where an export is written: under a temporary name first, and never over anything else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from ixt.checkpoint.checksums import SUMS, sums_of
from ixt.checkpoint.info import facts_beside
from ixt.errors import ExportError
from ixt.export.provenance import PROVENANCE, SIGNATURE, provenance_of, signature_of
from ixt.files import published, reason

# What may be in a folder for --overwrite to replace it.
_OWN = {
    *("config.json", "model.safetensors", "README.md", "recipe.yaml"),
    *(SUMS, PROVENANCE, SIGNATURE),
}


def check_place(out: Path, *, folder: bool, overwrite: bool, source: Path) -> None:
    """Refuse a place that is taken, before any work is done.

    `source` is the file that is exported, which must stay.

    Raises:
        ExportError: there is something that may not be replaced.
    """
    beside = (facts_beside, sums_of, provenance_of, signature_of)
    taken = [path for path in (out, *(name(out) for name in beside)) if path.exists()]
    if taken and not overwrite:
        raise ExportError(f"{taken[0]}: exists already; give another name, or add --overwrite")
    if not out.exists():
        return
    if out.is_dir() != folder:
        wanted, found = ("folder", "file") if folder else ("file", "folder")
        raise ExportError(f"{out}: is a {found}, this format is a {wanted}; give another name")
    if source.resolve() in (out.resolve(), *(p.resolve() for p in out.glob("*") if folder)):
        raise ExportError(f"{out}: is what is exported; give another name")
    other = sorted(path.name for path in out.iterdir() if path.name not in _OWN) if folder else []
    if other:
        raise ExportError(
            f"{out}: holds more than an export ({other[0]}), so it is not replaced; "
            "give another name"
        )


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `out` at the end, or leaves nothing.

    Yields:
        A path in an empty folder, which is named like `out`; it may become a file or a folder.
        Files beside it in that folder are moved beside `out`.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(
            prefix=f".tmp-{out.name}-", dir=out.parent, ignore_cleanup_errors=True
        ) as name:
            work, aside = Path(name) / out.name, Path(name) / "aside"
            work.mkdir()
            yield work / out.name
            aside.mkdir()
            _move(work, out, aside)
    # torch.save's stream and safetensors have errors of their own for a full disk.
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        raise ExportError(
            f"{out}: cannot be written: {reason(error)}; nothing is left of it"
        ) from error


def _move(work: Path, out: Path, aside: Path) -> None:
    """Give all files their names, or none.

    `work` holds what is to be `out` and beside it; what is replaced goes to the empty folder
    `aside`.
    """
    # Files beside the export first: it is complete when it gets its name.
    new = sorted(work.iterdir(), key=lambda path: path.name == out.name)
    names = {path.name for path in new}
    # An export without signature must not keep that of the one before.
    stale = [path for path in (signature_of(out), provenance_of(out)) if path.name not in names]
    stale = [path for path in stale if out.is_file() and path.exists()]
    targets = [*stale, *(out.with_name(path.name) for path in new)]
    replaced = {path for path in targets if path.exists()}
    try:
        for path in stale:
            path.rename(aside / path.name)
        for path in new:
            target = out.with_name(path.name)
            with published(target) as beside:
                path.rename(beside)
                if target in replaced:
                    _keep(target, aside / target.name)
    except OSError:
        for path in reversed(targets):
            if (aside / path.name).exists():
                _remove(path)
                (aside / path.name).rename(path)
            elif path not in replaced:
                _remove(path)
        raise


def _keep(target: Path, old: Path) -> None:
    try:
        os.link(target, old)  # the name is there all the time
    except OSError:  # a folder, or a file system without hard links
        target.rename(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
