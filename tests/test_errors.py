"""Whatever stands in a name, a message is one line that shows it."""

from __future__ import annotations

import pytest

from ixt.errors import DataError, RecipeError, escaped, first_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("\r\t\x85\x9b", r"\r\t\x85\x9b"),
        ("\u202egpj.exe\u2028", r"\u202egpj.exe\u2028"),
        ("Łódź 日本 é\u3000", "Łódź 日本 é\u3000"),
        ("\udcff", "\udcff"),
    ],
)
def test_what_is_not_visible_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert str(DataError(f"{text}: no such file")) == f"{shown}: no such file"


def test_an_error_has_a_line_for_each_argument() -> None:
    assert str(RecipeError("a: wrong", "b\nc: wrong")).splitlines() == ["a: wrong", r"b\nc: wrong"]


def test_markup_in_a_name_is_text() -> None:
    assert escaped("[red]\x1b") == r"\[red]\x1b"


def test_a_library_speaks_in_one_line() -> None:
    assert first_line(RuntimeError("  why \n\nCUDA kernel errors might be")) == "why"
    assert first_line(KeyError()) == "KeyError"
