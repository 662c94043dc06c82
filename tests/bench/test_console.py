"""Names in tables and lines cannot move the cursor or forge lines."""

from __future__ import annotations

import pytest

from ixt.bench.console import print_lines, print_table


def test_what_is_not_visible_in_a_name_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(["a\x1b[2Jb\nc [bold]"])
    assert capsys.readouterr().out == "a\\x1b[2Jb\\nc [bold]\n"
    print_table(["name"], [["a\x1b[2Jb\nc"]], words=["name"])
    assert "a\\x1b[2Jb\\nc" in capsys.readouterr().out
