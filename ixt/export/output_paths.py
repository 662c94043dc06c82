"""Where an export is written: under a temporary name first, and never over anything else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from ixt.checkpoint.info import facts_beside
from ixt.errors import ExportError
from ixt.export.checksums import SUMS
from ixt.files import published, reason

# What may be in a folder for --overwrite to replace it.
_OWN = {"config.json", "model.safetensors", "README.md", "recipe.yaml", SUMS}


def check_place(out: Path, *, folder: bool, overwrite: bool, source: Path) -> None:
    """Refuse a place that is taken, before any work is done.

    Args:
        out: where the export goes.
        folder: whether it is a folder.
        overwrite: replace an earlier export.
        source: the file that is exported, which must stay.

    Raises:
        ExportError: there is something that may not be replaced.
    """
    taken = [path for path in (out, facts_beside(out)) if path.exists()]
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
        A path in an empty folder beside `out`; it may become a file or a folder. Files beside it in
        that folder are moved beside `out`.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".tmp-{out.name}-", dir=out.parent) as name:
            work = Path(name)
            yield work / out.name
            # Files beside the export first: it is complete when it gets its name.
            for path in sorted(work.iterdir(), key=lambda path: path.name == out.name):
                target = out.with_name(path.name)
                with published(target) as beside:
                    path.rename(beside)
                    if target.is_dir():
                        target.rename(work / f"old-{target.name}")
    # torch.save's stream and safetensors have errors of their own for a full disk.
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        raise ExportError(
            f"{out}: cannot be written: {reason(error)}; nothing is left of it"
        ) from error
