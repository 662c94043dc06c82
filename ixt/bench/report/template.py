"""What pages are made of: templates of this folder, those beside a caller, and charts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


@dataclass(frozen=True)
class Drawing:
    """A finished chart."""

    title: str
    alt: str
    """What it shows, for those who do not see it."""
    svg: str
    caption: str


@cache
def page_environment(module: str) -> Environment:
    """Templates that escape what they are given.

    Those beside a module, whose `__file__` is given, come first.
    """
    folders = dict.fromkeys((Path(module).parent, Path(__file__).parent))
    return Environment(
        loader=FileSystemLoader(list(folders)),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
