from __future__ import annotations

import itertools
from typing import Any

from matplotlib.text import Text

from ixt.bench.report.svg import Mark, new_chart, place_names


def test_names_cover_neither_each_other_nor_marks_nor_leave_the_axes() -> None:
    points = [(x / 10, y / 20) for x, y in itertools.product(range(3, 8), range(8, 12))]
    with new_chart("x", "y", wide=False) as chart:
        axes = chart.axes
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        for n, (x, y) in enumerate(points):
            chart.draw(Mark(x, y, 50.0, "", f"model {n}"))
        place_names(chart)
        chart.figure.draw_without_rendering()
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # without their lines
        assert 10 <= len(boxes) <= len(points)
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        middles = axes.transData.transform(points)
        assert not any(box.contains(x, y) for box in boxes for x, y in middles)
        assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


def test_a_name_without_a_place_is_left_out_and_only_far_ones_have_a_line() -> None:
    with new_chart("x", "y", wide=False) as chart:
        axes = chart.axes
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        for _ in range(80):
            chart.draw(Mark(0.5, 0.5, 50.0, "", "a long name"))
        place_names(chart)
        assert 2 < len(axes.texts) < 80
        names: list[Any] = list(axes.texts)
        lines = [name.arrow_patch is not None for name in names]
        assert lines == sorted(lines) and lines[0] is False and lines[-1] is True


def test_a_name_crosses_no_line_and_no_text_that_stands_there() -> None:
    with new_chart("x", "y", wide=False) as chart:
        axes = chart.axes
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        (line,) = axes.plot([0, 1], [0.5, 0.5])
        note = axes.annotate("a ceiling", (0.5, 0.5), (0, 12), textcoords="offset points")
        chart.draw(Mark(0.5, 0.5, 50.0, "", "a model"))
        place_names(chart)
        chart.figure.draw_without_rendering()
        name = Text.get_window_extent(axes.texts[-1])
        assert axes.texts[-1].get_text() == "a model"
        assert not name.overlaps(Text.get_window_extent(note))
        path = line.get_path().transformed(line.get_transform())
        assert not path.intersects_bbox(name, filled=False)
