from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from ixt.monitor.status_line import Status, StatusLine, draw, fitting, terminal

FIELDS = (
    "epoch 12",
    "loss 2.1034",
    "15,020 images/s",
    "step 660/5280",
    "lr 1.97e-03",
    "1.2 GiB",
)
HALF = Status(660, 5280, 95.0, FIELDS)


def drawn(status: Status, width: int) -> str:
    """The line without colours."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(draw(status, width))
    (line,) = stream.getvalue().splitlines()
    return line


@pytest.mark.parametrize(
    ("width", "words"),
    [
        (40, []),
        (60, [*FIELDS[:2]]),
        (80, [*FIELDS[:3]]),
        (120, [*FIELDS[:5]]),
        (200, [*FIELDS]),
    ],
)
def test_the_last_fields_go_first_and_bar_and_time_left_stay(width: int, words: list[str]) -> None:
    bar, *rest = (word.strip() for word in drawn(HALF, width).split("  ") if word.strip())
    assert set(bar) <= set("━╸╺")
    assert rest == ["12%", "ETA 1 min 35 s", *words]


@pytest.mark.parametrize("width", range(34, 200, 7))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for field in ("packing", "a" * 300, "画像" * 40, "a\nb\x1b[2J"):
        line = drawn(Status(1, 9, 7500.0, [field, *FIELDS]), width)
        assert len(line) <= width and line.isprintable()
        assert "ETA 2 h 05 min" in line


def test_a_title_is_cut_rather_than_left_out() -> None:
    assert fitting(["/data/imagenet/train", "5 of 9"], 14) == ["/data/image…"]


def test_what_is_not_done_is_never_shown_as_all() -> None:
    assert " 99%" in drawn(Status(9999, 10_000, 1.0, []), 60)


def test_a_moving_line_leaves_nothing_behind_but_what_was_printed() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system=None)
    with StatusLine(console, lambda: HALF):
        console.print("a result")
    last = stream.getvalue().rpartition("a result")[2]
    assert "12%" in last  # it is drawn again below
    assert last.endswith("\x1b[2K")  # and erased


@pytest.mark.parametrize("set_to", [{"TERM": "dumb"}, {"JPY_PARENT_PID": "7"}, {"TERM": ""}])
def test_where_a_line_cannot_be_drawn_again_none_is(
    monkeypatch: pytest.MonkeyPatch, set_to: dict[str, str]
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert terminal() is None  # a pipe
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert terminal() is not None
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    assert terminal() is None
