"""Recipes with anything in them: each loads, or says what is wrong in a line per problem."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from ixt.errors import RecipeError
from ixt.recipe import dump_recipe, load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))

TEXT = """
null  true  false  yes  0  1  -1  5  0.5  -0.5  1.0  1e308  -1e308  5e-324  .nan  .inf  -.inf
1e999  0x7f  0o17  1_000  '5'  '1e-3'  ""  auto  none  x  []  {}  [1]  [1, 2, 3]  [[[]]]  {a: 1}
{1: 2}  {<<: {a: 1}}  &a [*a]  *b  !!int 5  !!omap [a: 1]  !x  2020-01-01  2020-13-45  ~  ?  :  -
|  >  %  @  `  "\\n"  "\\e[31m"  "\\ud800"  1:30  +1  -0  1e-9  {lr: .nan}  {num_classes: 3}
9223372036854775807  9223372036854775808  100000000000000000000000000000000  rand-m9-n99999
rand-m9  augmix-w1000000  trivial  adahessian  4096  4097  1024  /dev/zero  {img_size: 0}
"""
WORDS = re.split(r"\n|  ", TEXT.strip())
LONG = ["9" * 5000, "[" * 500 + "]" * 500, "{a: " * 500 + "}" * 500, "x" * 5000, "- " * 300]
BYTES = [
    b"\0",
    b"\xff",
    b"\t",
    b"\n",
    b":",
    b"{",
    b"]",
    b"'",
    b'"',
    b"#",
    b"&a ",
    b"*a",
    b"!",
    b"  ",
]


def mutated(draw: np.random.Generator) -> bytes:
    """A committed recipe with one or two changes of its lines, values, keys or bytes."""
    lines = RECIPES[draw.integers(len(RECIPES))].read_bytes().splitlines()
    lines = [line for line in lines if line and not line.startswith(b"#")]
    for _ in range(draw.integers(1, 3)):
        at = int(draw.integers(len(lines)))
        key, colon, _ = lines[at].partition(b":")
        value = (WORDS + LONG)[draw.integers(len(WORDS) + len(LONG))].encode()
        match draw.integers(8):
            case 0 | 1 | 2 | 3:
                lines[at] = key + colon + b" " + value
            case 4:
                lines[at] = b"  " + value + colon + b" 1"
            case 5:
                del lines[at]
                lines = lines or [b"model:"]
            case 6:
                lines.insert(at, lines[draw.integers(len(lines))])
            case _:
                place = int(draw.integers(len(lines[at]) + 1))
                odd = BYTES[draw.integers(len(BYTES))]
                lines[at] = lines[at][:place] + odd + lines[at][place:]
    return b"\n".join(lines) + b"\n"


def override(draw: np.random.Generator) -> str:
    """Any value for a key of a section, mostly one that exists."""
    plain: dict[str, Any] = YAML(typ="safe", pure=True).load(RECIPES[0].read_text())
    sections = [*plain, "nothing", ""]
    section = sections[draw.integers(len(sections))]
    keys = [*(plain.get(section) or {}), "kwargs", "x.y"]
    value = (WORDS + LONG)[draw.integers(len(WORDS) + len(LONG))]
    return f"{section}.{keys[draw.integers(len(keys))]}={value}"


def verdict(path: Path, overrides: list[str]) -> str | None:
    """What is wrong with a recipe; it is loaded again as a run writes it where nothing is."""
    try:
        recipe = load_recipe(path, overrides)
    except RecipeError as error:
        return str(error)
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path) == recipe
    return None


@pytest.mark.parametrize(
    "count", [100, pytest.param(2000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_mutated_recipe_loads_or_has_a_line_for_each_problem(tmp_path: Path, count: int) -> None:
    path, draw, refused = tmp_path / "x.yaml", np.random.default_rng(count), 0
    for number in range(count):
        content, overrides = mutated(draw), [override(draw)] * (number % 3 == 0)
        path.write_bytes(content)
        said = verdict(path, overrides)
        if said is None:
            continue
        refused += 1
        assert said.replace("\n", "").isprintable(), json.dumps(said)
        for line in said.splitlines():
            assert line.startswith((f"{path}:", "--set ")), line
            assert len(line) < 600, line
    assert 0.3 * count < refused < 0.95 * count
