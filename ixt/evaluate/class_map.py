"""Files that say which output a class folder belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ixt.errors import DataError, first_line
from ixt.files import read_regular, reason


def read_class_map(path: Path) -> dict[str, int]:
    """Folder name to output number, from a file.

    Reads a text file with a line for each output, its folder's name (timm's format), a JSON list
    of the same, or a JSON object of folder name to number (torchvision's class_to_idx).

    Raises:
        DataError: the file cannot be read or is none of these.
    """
    text = read_text(path)
    if path.suffix.lower() != ".json":
        names: Any = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        names = parse_json(path, text)
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        found = {name: number for number, name in enumerate(names)}
        if len(found) < len(names):
            raise DataError(f"{path}: names a folder twice; each line is another output")
        return found
    if isinstance(names, dict) and all(type(n) is int and n >= 0 for n in names.values()):
        return names
    raise DataError(
        f"{path}: is no class map; give a line (or a JSON list) with a folder's name for each "
        'output, or a JSON object {"folder": output, ...}'
    )


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return read_regular(path).decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}: is no UTF-8 text; give a text or JSON file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}); check the name") from error


def parse_json(path: Path, text: str) -> Any:
    """The value of a JSON text.

    Raises:
        DataError: it is none; the message names the file.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON: {first_line(error)}") from error
