"""What a person reads is plain English: the glossary of CONTRIBUTING.md is kept."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "ixt").rglob("*.py"))
PAGES = [
    path
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("*/**/*.md"), *ROOT.glob("recipes/*.yaml")])
    if path.name != "CONTRIBUTING.md" and not path.is_relative_to(ROOT / ".venv")
]
# The glossary's left column, as patterns.
AVOIDED = re.compile(
    r"\b(go(es|ing)? on|went on|mend(s|ed|ing)?|tells? of|told|may not be (read|written)|heard|"
    r"carr(y|ies|ied) away|what does not divide|so many (steps|updates|images|epochs|rows)|"
    r"name of the meeting|account that pays|brought now|takes? back|taken back|there twice|"
    r"that train has not|damaged or not a checkpoint|belongs? into|without a word)\b",
    re.IGNORECASE,
)


def texts(path: Path) -> Iterator[str]:
    """All texts of a module, docstrings too, or all of a page; one line each."""
    if path.suffix != ".py":
        yield " ".join(path.read_text().split())
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split())


def test_the_glossary_s_left_column_is_what_is_avoided() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| not | but |")[2]
    left = [row.split("|")[1].strip() for row in table.splitlines() if row.startswith("| ")]
    assert len(left) > 15
    # A mark that no pattern holds: words that are right elsewhere.
    general = {"as X (an example)", "heard, seen (of a signal)", "so many steps"}
    for words in set(left) - general:
        assert AVOIDED.search(words.split(",")[0]), words


@pytest.mark.parametrize("kind", ["modules", "pages"])
def test_no_text_uses_words_that_the_glossary_replaces(kind: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group()} in {text[max(0, match.start() - 50) :][:120]}"
        for path in (SOURCES if kind == "modules" else PAGES)
        for text in texts(path)
        for match in AVOIDED.finditer(text)
    ]
    assert found == []


def test_docstrings_of_fields_say_what_the_field_is() -> None:
    """`Of the process.` needs the field's name to be understood; a full phrase does not."""
    found = [
        f"{path.relative_to(ROOT)}:{text.lineno}: {text.value!r}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for field, text in documented_fields(node)
        if str(text.value).startswith(("Of ", "By ", "As ", "For "))
    ]
    assert found == []


def documented_fields(node: ast.ClassDef) -> Iterator[tuple[ast.AnnAssign, ast.Constant]]:
    """Fields of a class, each with the text below it."""
    for field, after in pairwise(node.body):
        text = after.value if isinstance(after, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Constant):
            yield field, text
