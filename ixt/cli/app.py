"""The Typer application, and what every command shares: errors, exit statuses, result files."""

from __future__ import annotations

import atexit
import errno
import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Annotated

import typer

from ixt import __version__
from ixt.cli.help import App
from ixt.cli.usage import usage_line
from ixt.errors import Interrupted, IxtError, printable
from ixt.files import reason

app = App(
    pretty_exceptions_enable=False,
    help="""Train, evaluate and export image classifiers, with an exact resume.

    `ixt COMMAND --help` explains a command.

    Example: `ixt data demo demo-data`""",
)

ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "give permission"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ETIMEDOUT), "check the disk or its server"),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), "give another path"),
}
"""What helps against errors of the system that a user can fix, by number."""


def main() -> None:
    """Run the program; a known error is one line and exit status 2."""
    # torch reads it once, with its first allocation. With huge pages, tensors of a batch are not
    # faulted in 4 KiB at a time: normalising takes a third of the time on a CPU.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Imported here: the parent of several processes prints what they leave.
    from ixt.distributed.launch import worker
    from ixt.distributed.launch.environment import launched, without_local_rank
    from ixt.distributed.signals import ignore_stop_signals

    _log_in_lines()
    _print_any_name()
    sys.argv = without_local_rank(sys.argv)
    _check_working_folder()
    try:
        sys.exit(app(prog_name="ixt", standalone_mode=False) or 0)
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
        ignore_stop_signals()
        worker.end(str(error), 128 + error.signum, same_on_all=True)
    except Exception as error:
        advice = ADVICE.get(error.errno or 0) if isinstance(error, OSError) else None
        if os.environ.get("IXT_DEBUG") or not (advice or launched()):
            raise
        if advice is None:
            worker.fail(error)
        file = getattr(error, "filename", None) or "a file"
        worker.end(
            printable(f"{file}: {reason(error)}; {advice}, then run the same command again"), 2
        )


def say(line: str, *, error: bool = False) -> None:
    """Print a line that may hold names, with what is not visible in them escaped."""
    print(printable(line), file=sys.stderr if error else sys.stdout, flush=True)


class _OneLine(logging.Formatter):
    """Escapes what is not visible in our messages; they hold names of files."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        message = super().formatMessage(record)
        return printable(message) if record.name.startswith("ixt") else message


def _log_in_lines() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def _check_working_folder() -> None:
    """End where the working folder is gone: every library needs one, and says so at length."""
    try:
        os.getcwd()
    except OSError as error:
        print(f"the working folder: {reason(error)}; change to one that exists", file=sys.stderr)
        sys.exit(2)


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
    """Print at Ctrl-C that nothing of the block's work is lost."""
    try:
        yield
    except KeyboardInterrupt:
        line = "stopped; finished work is kept, and the same command continues it"
        print(line, file=sys.stderr)
        raise


@contextmanager
def uncollected(at_exit: bool = False) -> Iterator[None]:
    """Keep Python's garbage collector out while the block imports.

    Importing torch and timm makes a million objects and little garbage; looking through them again
    and again, now and as the process ends, takes about a third of the CPU time of `import timm`.

    `at_exit` keeps it out as the process ends, too: for commands that leave nothing open.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    if at_exit:
        atexit.register(gc.freeze)
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
