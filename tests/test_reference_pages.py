"""The pages made from the code are those that the code makes now."""

from __future__ import annotations

from pathlib import Path

import pytest
from reference import ROOT, pages


@pytest.mark.parametrize("path", [path.relative_to(ROOT) for path in pages()], ids=str)
def test_a_generated_page_is_up_to_date(path: Path) -> None:
    assert (ROOT / path).read_text() == pages()[ROOT / path], "run `make reference`"


def test_each_recipe_is_named_on_the_page_of_recipes() -> None:
    page = (ROOT / "recipes" / "README.md").read_text()
    suffixes = ("_zero1", "_zero2", "_zero2_offload")
    names = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    plain = {name for name in names if not name.endswith(suffixes)}
    assert [name for name in plain if f"`{name}`" not in page] == []
    assert [suffix for suffix in suffixes if f"`{suffix}`" not in page] == []
