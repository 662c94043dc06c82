"""The Typer application, and what every command shares: options, errors, exit statuses."""

from __future__ import annotations

import errno
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ixt import __version__
from ixt.errors import Interrupted, IxtError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="An exact, resumable ImageNet trainer.",
)

RecipeArgument = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="Folder with train/ and val/ (or validation/).")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a recipe value, as optim.lr=1.0e-3; repeatable."),
]
RunDirOption = Annotated[
    Path | None, typer.Option(help="Folder of the run; runs/RECIPE if not given.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in --run-dir.")]
ProcessesOption = Annotated[
    int | None,
    typer.Option(min=1, help="Processes on this machine; one per GPU if not given."),
]

# A full disk, a used-up quota, a missing permission, a read-only file system.
_MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def main() -> None:
    """Run the program; a known error is one line and exit status 2."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        app()
    except IxtError as error:
        if os.environ.get("IXT_DEBUG"):
            raise
        _tell(str(error))
        sys.exit(2)
    except OSError as error:
        if error.errno not in _MENDABLE or os.environ.get("IXT_DEBUG"):
            raise
        _tell(f"{error.filename or 'a file'}: {error.strerror}; make room or allow it, then go on")
        sys.exit(2)
    except Interrupted as error:
        _tell(f"{error}; go on with --resume")
        sys.exit(128 + error.signum)


def _tell(message: str) -> None:
    # Imported here: the parent of several processes prints what they leave.
    from ixt.launch import leave_error

    if not leave_error(message):
        print(message, file=sys.stderr)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"ixt {__version__}")
        raise typer.Exit


def write_text(path: Path, text: str, append: bool = False) -> None:
    """Write a result file, making its folder; or add to it.

    Raises:
        IxtError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if append else "w") as stream:
            stream.write(text)
    except OSError as error:
        raise IxtError(f"{path}: cannot be written: {error.strerror}") from error
