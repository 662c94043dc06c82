"""The strings that timm reads and ours, side by side."""

import itertools
import random

import pytest
from timm.data import auto_augment as timm_aa

from ixt.errors import RecipeError
from ixt.pipeline.plan.policy import parse_policy
from ixt.pipeline.plan.policy.rand import RandAugment

SECTIONS = {
    "m": ["m0", "m5", "m9", "m15"],
    "n": ["n1", "n3"],
    "p": ["p0.3", "p1", "p1.0", "p0"],
    "mstd": ["mstd0", "mstd0.5", "mstd100", "mstd100.5", "mstd1e3", "mstd2."],
    "mmax": ["mmax12", "mmax30"],
    "inc": ["inc0", "inc1"],
    "t": ["tweights", "t3a", "t3aw"],
}


def strings(count: int) -> list[str]:
    """Random choices of sections in random order."""
    rng = random.Random(0)
    texts = []
    for _ in range(count):
        keys = rng.sample(list(SECTIONS), rng.randint(0, len(SECTIONS)))
        texts.append("-".join(["rand", *(rng.choice(SECTIONS[key]) for key in keys)]))
    return texts


def test_every_combination_of_sections_is_read_as_timm_reads_it() -> None:
    for text in [*strings(400), *("rand-" + s for s in itertools.chain(*SECTIONS.values()))]:
        ours, theirs = parse_policy(text), timm_aa.rand_augment_transform(text)
        assert isinstance(ours, RandAugment)
        op = theirs.ops[0]
        assert sorted(ours.names) == sorted(o.name for o in theirs.ops), text
        assert (ours.num_layers, ours.prob) == (theirs.num_layers, op.prob), text
        assert (ours.magnitude, ours.magnitude_std) == (op.magnitude, op.magnitude_std), text
        assert ours.magnitude_max == (op.magnitude_max or 10), text
        assert (ours.weights is None) == (theirs.choice_weights is None), text


# timm skips the section, or keeps one of two: the recipe would say what does not happen.
@pytest.mark.parametrize(
    "text",
    [
        "rand-m",
        "rand--m9",
        "rand-m9-",
        "rand-mstdinf",
        "rand-m9-m8",
        "rand-mstd1-mstd2",
        "rand-tunknown",
        "rand-inc2",
        "rand-n0",
        "rand-mmax0",
        "rand-p1.5",
    ],
)
def test_what_timm_reads_without_effect_is_refused(text: str) -> None:
    timm_aa.rand_augment_transform(text)
    with pytest.raises(RecipeError):
        parse_policy(text)


@pytest.mark.parametrize("text", ["rand-w0", "rand-x3", "rand-m9.5", "rand-mstd.5", "rand-mstd1-5"])
def test_what_timm_refuses_is_refused(text: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        timm_aa.rand_augment_transform(text)
    with pytest.raises(RecipeError):
        parse_policy(text)
