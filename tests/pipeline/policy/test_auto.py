import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from timm.data import auto_augment as timm_aa

from ixt.errors import RecipeError
from ixt.pipeline.plan.policy import parse_policy
from ixt.pipeline.plan.policy.auto import draw_auto, parse_auto
from ixt.pipeline.plan.policy.ops import KINDS, Frame, Op

UNLIKELY = 0.005
POLICIES = ["original", "originalr", "v0", "v0r", "3a"]


@pytest.mark.parametrize("name", POLICIES)
def test_sub_policies_are_timms(name: str) -> None:
    theirs = timm_aa.auto_augment_transform(name).policy
    steps = [tuple((op.name, op.prob, op.magnitude) for op in sub) for sub in theirs]
    assert parse_auto(name).sub_policies == tuple(steps)


def test_noise_is_read_as_timm_reads_it() -> None:
    assert parse_auto("v0r-mstd0.5").magnitude_std == 0.5
    # Only RandAugment takes large ones for a uniform distribution.
    assert parse_auto("v0-mstd101").magnitude_std == 101
    assert timm_aa.auto_augment_transform("v0-mstd101").policy[0][0].magnitude_std == 101


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("original-m9", "cannot read 'm9'; allowed: mstd, each followed by a number"),
        ("v1", "must start with rand, augmix, original, originalr, v0, v0r, 3a"),
        ("3a-tweights", "cannot read 'tweights'"),
    ],
)
def test_bad_string_is_refused_in_one_line(text: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_policy(text)
    assert told in str(caught.value)


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("text", ["original", "v0r-mstd1", "3a"])
def test_what_happens_to_images_is_as_frequent_as_in_timm(text: str, count: int) -> None:
    table = draw_auto(parse_auto(text), (3, 1, np.arange(count)), Frame(224))
    ours = Counter(tuple(int(op) for op in row if op) for row in table.op)
    theirs = Counter(tuple(op for op, _ in image) for image in timms_draws(text, count))
    seen = {what for what in ours | theirs if ours[what] + theirs[what] >= 20}
    assert (ours | theirs).keys() >= seen
    counts = np.array([[c[what] for what in sorted(seen)] for c in (ours, theirs)])
    assert stats.chi2_contingency(counts).pvalue > UNLIKELY


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("text", "op"),
    [
        ("original-mstd1", Op.ROTATE),
        ("original-mstd1", Op.COLOR),
        ("v0-mstd2", Op.SHEAR_Y),
        ("3a-mstd0.5", Op.GAUSSIAN_BLUR),
    ],
)
def test_arguments_are_distributed_as_timms(text: str, op: Op, count: int) -> None:
    table = draw_auto(parse_auto(text), (5, 1, np.arange(count)), Frame(224))
    theirs = [arg for image in timms_draws(text, count) for code, arg in image if code == op]
    assert stats.ks_2samp(table.arg[table.op == op], theirs).pvalue > UNLIKELY


def test_3a_blurs_by_any_radius_up_to_two_pixels() -> None:
    table = draw_auto(parse_auto("3a"), (0, 0, np.arange(6000)), Frame(224))
    assert Counter(table.op[:, 0].tolist()).keys() == {Op.SOLARIZE, Op.COLOR, Op.GAUSSIAN_BLUR}
    assert set(table.arg[table.op == Op.SOLARIZE]) == {128.0}
    assert set(table.arg[table.op == Op.COLOR]) == {0.0}
    radius = table.arg[table.op == Op.GAUSSIAN_BLUR]
    assert stats.kstest(radius, stats.uniform(0.1, 1.9).cdf).pvalue > UNLIKELY


def timms_draws(text: str, count: int) -> list[list[tuple[int, float]]]:
    """What timm's AutoAugment does to each of `count` images: operations and first arguments."""
    transform = timm_aa.auto_augment_transform(text)
    done: list[tuple[int, float]] = []

    def record(name: str) -> Callable[..., None]:
        code = int(KINDS[name][0])

        def function(image: None, *values: float, **_: object) -> None:
            value = values[0] if values else 0.0
            if name == "GaussianBlurRand":
                value = random.uniform(0.1, 2.0 * value)
            done.append((code, value))

        return function

    for sub in transform.policy:
        for op in sub:
            op.aug_fn = record(op.name)
    random.seed(11)
    images = []
    for _ in range(count):
        done.clear()
        transform(None)
        images.append(list(done))
    return images
