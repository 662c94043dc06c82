"""The Typer application, and what every command shares: errors, exit statuses, result files."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from ixt import __version__
from ixt.cli.usage import usage_line
from ixt.errors import Interrupted, IxtError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="An exact, resumable ImageNet trainer.",
)

# A full disk, a used-up quota, a missing permission, a read-only file system.
_MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def main() -> None:
    """Run the program; a known error is one line and exit status 2."""
    # torch reads it once, with its first allocation. With huge pages, tensors of a batch are not
    # faulted in 4 KiB at a time: normalising takes a third of the time on a CPU.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Imported here: the parent of several processes prints what they leave.
    from ixt.distributed.launch import worker
    from ixt.distributed.launch.environment import launched, without_local_rank

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    _print_any_name()
    sys.argv = without_local_rank(sys.argv)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except typer.TyperException as error:
        line = usage_line(error)
        if line:
            worker.end(line, error.exit_code)
        sys.exit(error.exit_code)
    except IxtError as error:
        if os.environ.get("IXT_DEBUG"):
            raise
        worker.end(str(error), 2)
    except Interrupted as error:
        worker.end(f"{error}; continue with --resume", 128 + error.signum, alike=True)
    except Exception as error:
        mendable = isinstance(error, OSError) and error.errno in _MENDABLE
        if os.environ.get("IXT_DEBUG") or not (mendable or launched()):
            raise
        if not mendable:
            worker.fail(error)
        name, reason = getattr(error, "filename", None), getattr(error, "strerror", error)
        worker.end(f"{name or 'a file'}: {reason}; make room or allow it, then go on", 2)


def _print_any_name() -> None:
    """Let file names pass that are no text in this locale: as they are, or with escapes."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"ixt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    pass


@contextmanager
def resumable() -> Iterator[None]:
    """Say at Ctrl-C that nothing of the block's work is lost."""
    try:
        yield
    except KeyboardInterrupt:
        line = "stopped; what is done is kept: the same command goes on from there"
        print(line, file=sys.stderr)
        raise


def check_outputs(*paths: Path | None) -> None:
    """Refuse result files that could not be written, before the work whose results they hold.

    Raises:
        IxtError: a path is a URL or a folder, lies below a file, or may not be written to.
    """
    from ixt.files import refuse_url

    for path in filter(None, paths):
        refuse_url(path)
        try:
            place = next(place for place in (path, *path.absolute().parents) if place.exists())
        except OSError as error:  # such as a name that is too long
            raise IxtError(f"{path}: cannot be written: {error.strerror}") from error
        if path.is_dir():
            raise IxtError(f"{path}: is a folder; give the name of a file")
        if place != path and not place.is_dir():
            raise IxtError(f"{path}: cannot be written: {place} is no folder; give another name")
        if not os.access(place, os.W_OK):
            raise IxtError(f"{path}: cannot be written: {place} is read-only; give another name")


def write_json(path: Path, content: object) -> None:
    """Write a result file as indented JSON; see `write_text`."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str, append: bool = False) -> None:
    """Write a result file, making its folder; or add to it.

    Raises:
        IxtError: it cannot be written, or is a URL.
    """
    from ixt.files import refuse_url

    refuse_url(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Names of files may hold bytes that are no text: they are written as they are.
        with path.open(
            "a" if append else "w", encoding="utf-8", errors="surrogateescape"
        ) as stream:
            stream.write(text)
    except OSError as error:
        raise IxtError(f"{path}: cannot be written: {error.strerror}") from error
