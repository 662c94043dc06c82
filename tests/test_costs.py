"""Counts that are kept from one command to the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from ixt import costs
from ixt.costs import kept_count


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers that were counted, not kept, in a cache of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return []


def squared(number: int, counted: list[int]) -> int:
    def count() -> list[int]:
        counted.append(number)
        return [number**2]

    return int(kept_count("square", [number], count)[0])


def test_the_same_inputs_are_counted_once(counted: list[int]) -> None:
    assert [squared(number, counted) for number in (2, 3, 2, 3)] == [4, 9, 4, 9]
    assert counted == [2, 3]


@pytest.mark.parametrize("versions", [("other source", "2.14", "1.0"), ("source", "2.15", "1.0")])
def test_other_code_counts_again(
    versions: tuple[str, ...], counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "_versions", lambda: ("source", "2.14", "1.0"))
    squared(2, counted)
    monkeypatch.setattr(costs, "_versions", lambda: versions)
    squared(2, counted)
    assert counted == [2, 2]


@pytest.mark.parametrize("content", ["", "[]", '{"of": ["square", [3]], "value": [9]}', "[" * 9999])
def test_a_damaged_count_is_counted_again_and_replaced(
    content: str, tmp_path: Path, counted: list[int]
) -> None:
    squared(2, counted)
    (file,) = tmp_path.rglob("square-*.json")
    file.write_text(content)
    assert [squared(2, counted) for _ in range(2)] == [4, 4]
    assert counted == [2, 2]


def test_a_cache_that_cannot_be_written_only_costs_time(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [squared(2, counted) for _ in range(2)] == [4, 4]
    assert counted == [2, 2]
