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
    str | None,
    typer.Option("--data", help="Folder with train/ and val/ (or validation/), or s3://..."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a recipe value, as optim.lr=1.0e-3; repeatable."),
]
RunDirOption = Annotated[
    Path | None, typer.Option(help="Folder of the run; runs/RECIPE if not given.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in --run-dir.")]
AutoResumeOption = Annotated[
    bool,
    typer.Option("--auto-resume", help="Go on with the run in --run-dir if it holds one."),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option(min=1, help="Processes on this machine; one per GPU if not given."),
]
ProfileOption = Annotated[
    int,
    typer.Option(
        "--profile",
        metavar="STEPS",
        min=0,
        help="Trace so many steps, after three of warm-up, into profile/ of the run's folder.",
    ),
]
NodesOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|MIN:MAX",
        help="Machines that train together, or how few and how many; run this on each of them.",
        rich_help_panel="Several machines",
    ),
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--rdzv-endpoint",
        metavar="HOST:PORT",
        help="The first machine, where all of them meet.",
        rich_help_panel="Several machines",
    ),
]
MeetingOption = Annotated[
    str | None,
    typer.Option(
        "--rdzv-id",
        help="Name of the meeting, where several share an endpoint.",
        rich_help_panel="Several machines",
    ),
]
RestartsOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="How often failed processes start again from the newest checkpoint; "
        "3 for a range of machines, else 0.",
        rich_help_panel="Several machines",
    ),
]

# A full disk, a used-up quota, a missing permission, a read-only file system.
_MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def main() -> None:
    """Run the program; a known error is one line and exit status 2."""
    # Imported here: the parent of several processes prints what they leave.
    from ixt.launch import worker
    from ixt.launch.environment import launched, without_local_rank

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    sys.argv = without_local_rank(sys.argv)
    try:
        app()
    except IxtError as error:
        if os.environ.get("IXT_DEBUG"):
            raise
        worker.end(str(error), 2)
    except Interrupted as error:
        worker.end(f"{error}; go on with --resume", 128 + error.signum, alike=True)
    except Exception as error:
        mendable = isinstance(error, OSError) and error.errno in _MENDABLE
        if os.environ.get("IXT_DEBUG") or not (mendable or launched()):
            raise
        if not mendable:
            worker.fail(error)
        name, reason = getattr(error, "filename", None), getattr(error, "strerror", error)
        worker.end(f"{name or 'a file'}: {reason}; make room or allow it, then go on", 2)


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
