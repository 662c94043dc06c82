import numpy as np
import pytest
from scipy import stats
from timm.data import auto_augment as timm_aa

from ixt.errors import RecipeError
from ixt.pipeline.plan.policy.augmix import NAMES, AugMix, AugMixTable, draw_augmix, parse_augmix
from ixt.pipeline.plan.policy.ops import AUGMIX_KINDS, Frame, Op

UNLIKELY = 0.005


def drawn(text: str, count: int = 10_000) -> AugMixTable:
    return draw_augmix(parse_augmix(text), (8, 2, np.arange(count)), Frame(224))


@pytest.mark.parametrize(
    "text", ["augmix", "augmix-m5-w4-d2", "augmix-m3-w3-d2-a0.5-b1", "augmix-mstd101-d0"]
)
def test_string_reads_as_timm_reads_it(text: str) -> None:
    policy, theirs = parse_augmix(text), timm_aa.augment_and_mix_transform(text)
    op = theirs.ops[0]
    assert isinstance(policy, AugMix)
    assert sorted(NAMES) == sorted(op.name for op in theirs.ops)
    assert (policy.magnitude, policy.magnitude_std) == (op.magnitude, op.magnitude_std)
    assert (policy.width, policy.alpha) == (theirs.width, theirs.alpha)
    assert (policy.depth, policy.blended) == (max(theirs.depth, 0), theirs.blended)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("augmix-n3", "cannot read 'n3'; allowed: m, w, d, a, b, mstd"),
        ("augmix-a0", "a must be between 0.01 and 1000"),
        ("augmix-w0", "w must be between 1 and 32"),
        ("augmix-w1000000", "w must be between 1 and 32"),
        ("augmix-d-1", "cannot read 'd'"),
    ],
)
def test_bad_string_is_refused_in_one_line(text: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_augmix(text)
    assert told in str(caught.value)


def test_every_operation_is_applied_and_depth_is_one_to_three() -> None:
    table = drawn("augmix")
    assert len(table.chains) == 3
    for chain in table.chains:
        used = chain.op != Op.IDENTITY
        assert (used == (np.arange(3) < used.sum(axis=1)[:, None])).all()
        assert stats.chisquare(np.bincount(used.sum(axis=1), minlength=4)[1:]).pvalue > UNLIKELY
        counts = np.bincount(chain.op[:, 0], minlength=16)
        codes = [AUGMIX_KINDS[name][0] for name in NAMES]
        assert counts.sum() == counts[codes].sum()
        assert stats.chisquare(counts[codes]).pvalue > UNLIKELY
    assert (drawn("augmix-d2", 100).chains[0].op != Op.IDENTITY).all()
    pairs = np.stack([chain.op[:, 0] for chain in table.chains])
    assert np.abs(np.corrcoef(pairs) - np.eye(3)).max() < 0.04


def test_images_move_at_most_three_tenths() -> None:
    table = drawn("augmix-m10-d1-w1-mstd0")
    shifts = table.chains[0].arg[table.chains[0].op == Op.TRANSLATE_X]
    assert set(np.round(shifts, 6)) == {-67.2, 67.2}


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("alpha", [1.0, 0.3, 5.0])
def test_weights_are_dirichlet_and_the_share_is_beta(alpha: float, count: int) -> None:
    table = drawn(f"augmix-w4-a{alpha}", count)
    weights = table.weights.astype(np.float64)
    assert np.abs(weights.sum(axis=1) - 1).max() < 1e-6
    assert (weights >= 0).all()
    theirs = np.random.default_rng(1).dirichlet([alpha] * 4, count)
    for chain in range(4):
        one = stats.beta(alpha, 3 * alpha)
        assert stats.kstest(weights[:, chain], one.cdf).pvalue > UNLIKELY
    assert stats.ks_2samp(weights.max(axis=1), theirs.max(axis=1)).pvalue > UNLIKELY
    assert stats.ks_2samp(weights[:, :2].sum(1), theirs[:, :2].sum(1)).pvalue > UNLIKELY
    assert stats.kstest(table.share, stats.beta(alpha, alpha).cdf).pvalue > UNLIKELY


def test_levels_are_uniform_by_default() -> None:
    chain = drawn("augmix-m4-d1-w1").chains[0]
    degrees = np.abs(chain.arg[chain.op == Op.ROTATE])
    assert stats.kstest(degrees, stats.uniform(0, 12).cdf).pvalue > UNLIKELY


def test_draws_depend_on_their_own_keys_only() -> None:
    policy, rows = parse_augmix("augmix"), np.array([99, 3, 50])
    whole = draw_augmix(policy, (8, 2, np.arange(100)), Frame(224)).take(rows)
    some = draw_augmix(policy, (8, 2, rows), Frame(224))
    assert np.array_equal(some.weights, whole.weights)
    assert np.array_equal(some.share, whole.share)
    for one, other in zip(some.chains, whole.chains, strict=True):
        for name in ("op", "arg", "filter"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
    # A wider mixture leaves the first chains alone.
    wider = draw_augmix(parse_augmix("augmix-w5"), (8, 2, rows), Frame(224))
    assert np.array_equal(wider.chains[2].arg, some.chains[2].arg)
