"""What `ixt explain` says is what the schema does."""

from __future__ import annotations

import pytest

from ixt.errors import RecipeError
from ixt.recipe import Recipe
from ixt.recipe.reference import entries, explain, markdown


def test_every_field_of_every_section_has_a_meaning() -> None:
    fields = {
        f"{section}.{name}"
        for section, field in Recipe.model_fields.items()
        for name in field.annotation.model_fields  # type: ignore[union-attr]
    }
    assert {entry.key for entry in entries()} == fields
    assert [entry.key for entry in entries() if not entry.meaning or not entry.allowed] == []


@pytest.mark.parametrize(
    ("key", "allowed", "default"),
    [
        ("optim.lr", "a number above 0 and up to 1,000", "0.001"),
        ("optim.betas", "a list of 2 items, each a number from 0 to 1, or null", "null"),
        ("augment.image_size", "a whole number from 1 to 4,096, or null", "null"),
        ("eval.crop_mode", "`center` or `squash`, or null", "null"),
        ("ema.decay", "a number above 0 and below 1, or null", "null"),
        ("data.on_error", "`stop` or `skip`", "stop"),
        ("engine.compile", "true or false", "false"),
        ("augment.scale", "[low, high] with 0 < low <= high <= 1", "[0.08, 1.0]"),
        ("data.classes", "a list, each item a string, or null", "null"),
        ("model.name", "a string", "required"),
        ("engine.micro_batch_size", "a whole number from 1 to 1,048,576, or `auto`", "128"),
        ("data.hw_decoder_load", "0 or 1", "0.0"),
        ("run.seed", "a whole number of at least 0", "42"),
        ("run.prometheus", "a mapping of `port`, `address` and `textfile`, or null", "null"),
        ("data.num_threads", "a whole number from 1 to 1,024, or null", "null"),
    ],
)
def test_types_limits_and_defaults_are_in_words(key: str, allowed: str, default: str) -> None:
    [entry] = explain(key)
    assert (entry.allowed, entry.default) == (allowed, default)


def test_a_section_lists_its_fields_and_a_word_those_that_hold_it() -> None:
    assert {entry.key.split(".")[0] for entry in explain("optim")} == {"optim"}
    assert [entry.key for entry in explain("batch_size")] == [
        "engine.global_batch_size",
        "engine.micro_batch_size",
        "eval.batch_size",
    ]
    assert [entry.key for entry in explain("lr")] == ["optim.lr"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("optim.lrr", "optim.lrr: recipes have no such field; did you mean optim.lr"),
        ("nosuch", "nosuch: recipes have no such field; `ixt explain` lists the sections"),
        ("ema.decya", "did you mean ema.decay"),
        ("x\x1b[31m", r"x\x1b[31m: recipes have no such field"),
        ("", ": recipes have no such field"),
    ],
)
def test_an_unknown_field_is_one_line_with_similar_ones(key: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        explain(key)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tables_have_four_cells_a_row() -> None:
    rows = [line for line in markdown().splitlines() if line.startswith("| `")]
    assert len(rows) == len(entries())
    assert {len(row.replace("\\|", "").split("|")) for row in rows} == {6}
