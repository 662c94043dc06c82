"""What a user can fix: one class per kind of input that can be wrong.

The command line prints such an error as one line and exits with status 2. Wrong arguments to a
Python function raise ValueError instead, and a broken invariant of our own fails an assert.
"""

import unicodedata

_HIDDEN = ("Cc", "Cf", "Zl", "Zp")  # control and format characters, separators of lines


class IxtError(Exception):
    """A mistake in what the user gave: the message says where, what was found, what to do.

    Each argument is a line. Names in it may hold anything: what would not be visible is escaped.
    """

    def __str__(self) -> str:
        return "\n".join(printable(str(line)) for line in self.args)


class RecipeError(IxtError):
    """A recipe or one of its overrides is wrong."""


class DataError(IxtError):
    """A data folder, an index or an image is wrong."""


class StorageError(DataError):
    """A bucket does not give, or take, an object."""


class MissingObject(StorageError):
    """An object or its bucket is not there."""


class ModelError(IxtError):
    """A model name, its arguments or its weights are wrong."""


class CheckpointError(IxtError):
    """A checkpoint or a run folder is missing, damaged or of another run."""


class ExportError(IxtError):
    """An export is refused, or what was written does not compute what its source does."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint's files are not what was written; the one before it will do."""


class EngineError(IxtError):
    """Devices, processes or precision do not fit the machine or each other."""


class Diverged(IxtError):
    """The loss is no longer a number."""


class Interrupted(Exception):
    """A signal asked to stop; the work is saved. The message says how to continue."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class PeerLost(Exception):
    """Another process of the group is gone, so this one cannot continue."""


def printable(text: str) -> str:
    r"""Text for one line of a terminal: line ends and escape sequences as `\n` and `\x1b`.

    Names of files and classes come from anywhere, and could else move the cursor, or forge lines.
    Bytes that are no text (lone surrogates) stay: the stream decides how it writes them.
    """
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _HIDDEN else c
        for c in text
    )


def escaped(text: str) -> str:
    """Printable text that rich takes for text, not for markup."""
    from rich.markup import escape

    return escape(printable(text))


def first_line(error: BaseException) -> str:
    """What an exception of a library says, without further lines; IXT_DEBUG=1 shows them all."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip() if lines else type(error).__name__
