import math
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from timm.data import auto_augment as timm_aa

from ixt.errors import RecipeError
from ixt.pipeline.plan.crop import BICUBIC, BILINEAR
from ixt.pipeline.plan.policy import parse_policy
from ixt.pipeline.plan.policy.ops import KINDS, Frame, Op, OpTable
from ixt.pipeline.plan.policy.rand import RandAugment, draw_rand, parse_rand

STRINGS = [
    "rand",
    "rand-m9-mstd0.5-inc1",
    "rand-m5-inc1-mstd101",
    "rand-m7-n3-p0.8-mmax12",
    "rand-mstd1-tweights",
    "rand-n3-t3a",
    "rand-m9-n2-t3aw-inc1",
]
# Distribution tests have fixed seeds; this is how unlikely a right draw may look.
UNLIKELY = 0.005


@pytest.mark.parametrize("text", STRINGS)
def test_policy_reads_as_timm_reads_it(text: str) -> None:
    policy, theirs = parse_rand(text), timm_aa.rand_augment_transform(text)
    op = theirs.ops[0]
    assert sorted(policy.names) == sorted(op.name for op in theirs.ops)
    assert policy.num_layers == theirs.num_layers
    assert policy.prob == op.prob
    assert policy.magnitude == op.magnitude
    assert policy.magnitude_std == op.magnitude_std
    assert policy.magnitude_max == (op.magnitude_max or 10)
    if policy.weights is None:
        assert theirs.choice_weights is None
    else:
        ours = dict(zip(policy.names, np.array(policy.weights) / sum(policy.weights), strict=True))
        names = [op.name for op in theirs.ops]
        assert ours == pytest.approx(dict(zip(names, theirs.choice_weights, strict=True)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("random-m3", "must start with rand, augmix, original"),
        ("", "must start with rand, augmix, original"),
        ("rand-m9-q3", "cannot read 'q3'"),
        ("rand-m", "cannot read 'm'"),
        ("rand--m9", "cannot read ''"),
        ("rand-mstdinf", "cannot read 'mstdinf'"),
        ("rand-w0", "w is an older timm's word for the weighted set"),
        ("rand-mstd0.5.5", "mstd0.5.5 needs a number"),
        ("rand-t3a-t3aw", "t is given twice"),
        ("rand-m9.5", "m9.5 needs a whole number"),
        ("rand-n0", "n must be between 1 and 32"),
        ("rand-m9-n99999", "n must be between 1 and 32"),
        ("rand-p1.5", "p must be between 0 and 1"),
        ("rand-inc2", "inc must be between 0 and 1"),
        ("rand-m9-m8", "m is given twice"),
        ("rand-tincreasing", "tweights, t3a, t3aw"),
        ("rand-n15-t3aw", "than the 14 in the set"),
    ],
)
def test_bad_policy_is_refused_in_one_line(text: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_policy(text)
    assert told in str(caught.value)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_policy_loads_no_torch() -> None:
    code = "import sys, ixt.pipeline.plan.policy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", [name for name in KINDS if name != "GaussianBlurRand"])
def test_arguments_are_timms_at_every_level(name: str) -> None:
    to_arg = timm_aa.LEVEL_TO_ARG[name]
    for level in np.linspace(0, 10, 21):
        policy = RandAugment(names=(name,), num_layers=1, prob=1.0, magnitude=level)
        table = draw_rand(policy, (0, 0, np.arange(40)), Frame(224))
        random.seed(0)
        theirs = {to_arg(level, {})[0] if to_arg else 0.0 for _ in range(40)}
        if name.startswith("Translate"):
            theirs = {share * 224 for share in theirs}
        if name == "Desaturate":
            theirs = {1.0 - share for share in theirs}
        assert set(table.arg.ravel().tolist()) == theirs
        assert (table.op == KINDS[name][0]).all()


def test_draws_depend_on_seed_epoch_and_position_only() -> None:
    policy = parse_rand("rand-m9-mstd0.5-inc1")
    whole = draw_rand(policy, (7, 3, np.arange(1000)), Frame(224))
    rows = np.array([998, 3, 3, 500])
    some = draw_rand(policy, (7, 3, rows), Frame(224))
    assert_same(some, whole.take(rows))
    assert len(some) == 4
    for other in ((8, 3), (7, 4)):
        assert (draw_rand(policy, (*other, np.arange(1000)), Frame(224)).op != whole.op).any()


@pytest.mark.parametrize("suffix", ["", "-tweights"])
def test_another_layer_leaves_the_first_ones_alone(suffix: str) -> None:
    keys = (7, 3, np.arange(200))
    two = draw_rand(parse_rand(f"rand-n2-mstd1{suffix}"), keys, Frame(224))
    three = draw_rand(parse_rand(f"rand-n3-mstd1{suffix}"), keys, Frame(224))
    assert_same(two, three.take((slice(None), slice(0, 2))))


def test_fixed_filter_is_kept_and_random_draws_both_evenly() -> None:
    policy, keys = parse_rand("rand-n1"), (1, 1, np.arange(20000))
    assert (draw_rand(policy, keys, Frame(224, BICUBIC)).filter == BICUBIC).all()
    bilinear = (draw_rand(policy, keys, Frame(224)).filter == BILINEAR).mean()
    assert abs(bilinear - 0.5) < 4 * 0.5 / math.sqrt(20000)


def test_each_operation_is_equally_frequent_and_half_are_applied() -> None:
    table = draw_rand(parse_rand("rand-m9-inc1"), (42, 0, np.arange(100_000)), Frame(224))
    for layer in range(2):
        seen = np.bincount(table.op[:, layer], minlength=16)
        expected = np.array([50_000, *[50_000 / 15] * 15])
        assert stats.chisquare(seen, expected).pvalue > UNLIKELY
    pairs = np.bincount(16 * table.op[:, 0].astype(int) + table.op[:, 1], minlength=256)
    assert stats.chi2_contingency(pairs.reshape(16, 16)).pvalue > UNLIKELY


def test_weighted_operations_are_drawn_without_replacement_as_numpy_does() -> None:
    policy = parse_rand("rand-n3-p1-m9-t3aw")
    assert policy.weights is not None
    weights = np.array(policy.weights) / sum(policy.weights)
    table = draw_rand(policy, (42, 0, np.arange(20_000)), Frame(224))
    # Solarize, desaturate (as color, shared with ColorIncreasing) and so on: compare by operation.
    codes = np.array([KINDS[name][0] for name in policy.names])
    rng = np.random.RandomState(0)
    theirs = np.stack([rng.choice(codes, 3, replace=False, p=weights) for _ in range(10_000)])
    for layer in range(3):
        counts = [np.bincount(drawn[:, layer], minlength=17) for drawn in (table.op, theirs)]
        both = np.stack(counts)[:, np.sum(counts, axis=0) > 0]
        assert stats.chi2_contingency(both).pvalue > UNLIKELY
    rotations = (table.op == Op.ROTATE).sum(axis=1)
    assert rotations.max() == 1


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "rand-m5-inc1-mstd101", "rand-m9-mstd3"])
@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["Rotate", "ShearX", "TranslateYRel", "Color", "Brightness"])
def test_strengths_are_distributed_as_timms(text: str, kind: str, count: int) -> None:
    ours, theirs = drawn_arguments(text, kind, count)
    assert stats.ks_2samp(ours, theirs).pvalue > UNLIKELY


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "rand-m5-inc1-mstd101", "rand-m9-mstd3"])
@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["Posterize", "Solarize", "SolarizeAdd"])
def test_whole_numbered_strengths_are_distributed_as_timms(
    text: str, kind: str, count: int
) -> None:
    ours, theirs = drawn_arguments(text, kind, count)
    counts = np.stack([np.bincount(a.astype(int), minlength=257) for a in (ours, theirs)])
    common = counts.sum(axis=0) >= 10
    assert common.any()
    if common.sum() > 1:
        assert stats.chi2_contingency(counts[:, common]).pvalue > UNLIKELY


def drawn_arguments(text: str, kind: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Arguments of one operation: ours and as many that timm hands to its function."""
    policy = parse_rand(text)
    name = next(n for n in policy.names if n.removesuffix("Increasing") == kind)
    single = RandAugment(**{**vars(policy), "names": (name,), "num_layers": 1, "prob": 1.0})
    ours = draw_rand(single, (1, 2, np.arange(count)), Frame(224)).arg.ravel()
    op = next(o for o in timm_aa.rand_augment_transform(text).ops if o.name == name)
    theirs: list[float] = []
    op.prob = 1.0
    op.aug_fn = lambda image, value, **_: theirs.append(value)
    random.seed(3)
    for _ in range(count):
        op(None)
    return ours, np.array(theirs) * (224 if kind.startswith("Translate") else 1)


def assert_same(a: OpTable, b: OpTable) -> None:
    for name in ("op", "arg", "filter"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
