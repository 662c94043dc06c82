import itertools

import numpy as np
import pytest
import torch
from photographs import from_pillow, to_pillow
from scipy import stats
from torch import Tensor
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as F

from ixt.pipeline.augment.layers import apply_policy
from ixt.pipeline.plan.policy.jitter import Jitter, draw_jitter
from ixt.pipeline.plan.policy.ops import Op, OpTable

UNLIKELY = 0.005
ALL = (0.4, 0.3, 0.2, 0.1)
OPS = (Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR, Op.HUE)


def drawn(jitter: Jitter, count: int = 10_000) -> OpTable:
    table = draw_jitter(jitter, (4, 1, np.arange(count)))
    assert table is not None
    return table


def test_nothing_is_drawn_where_nothing_is_on() -> None:
    assert draw_jitter(Jitter(), (4, 1, np.arange(5))) is None


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_factors_and_their_order_are_distributed_as_torchvisions(count: int) -> None:
    table = drawn(Jitter(ALL), count)
    orders = {order: k for k, order in enumerate(itertools.permutations(OPS))}
    counts = np.bincount([orders[tuple(row)] for row in table.op.tolist()], minlength=24)
    assert stats.chisquare(counts).pvalue > UNLIKELY
    theirs = ColorJitter(*ALL)
    torch.manual_seed(0)
    settings = (theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue)
    params = np.array([ColorJitter.get_params(*settings)[1:] for _ in range(10_000)])
    for k, op in enumerate(OPS):
        mine = table.arg[table.op == op]
        other = np.trunc(params[:, k] * 255) if op == Op.HUE else params[:, k]
        assert len(mine) == count
        if op == Op.HUE:
            seen = [np.bincount((x + 30).astype(int), minlength=60) for x in (mine, other)]
            both = np.stack(seen)[:, np.sum(seen, axis=0) > 0]
            assert stats.chi2_contingency(both).pvalue > UNLIKELY
        else:
            assert stats.ks_2samp(mine, other).pvalue > UNLIKELY


def test_wide_ranges_stop_at_black() -> None:
    factors = drawn(Jitter((1.5, 0.0, 0.0, 0.0))).arg
    assert stats.kstest(factors[:, 0], stats.uniform(0, 2.5).cdf).pvalue > UNLIKELY


def test_pixels_are_torchvisions_given_its_factors_and_order(photographs: Tensor) -> None:
    table = drawn(Jitter((0.4, 0.4, 0.4, 0.2)), len(photographs))
    ours = apply_policy(photographs, table, (0, 0, 0))
    functions = {
        Op.BRIGHTNESS: F.adjust_brightness,
        Op.CONTRAST: F.adjust_contrast,
        Op.COLOR: F.adjust_saturation,
        # Half a step more, so that truncating gives the step.
        Op.HUE: lambda picture, steps: F.adjust_hue(picture, (steps + np.sign(steps) / 2) / 255),
    }
    for row, image in enumerate(photographs):
        picture = to_pillow(image)
        for op, arg in zip(table.op[row], table.arg[row], strict=True):
            picture = functions[Op(op)](picture, float(arg))
        assert torch.equal(ours[row], from_pillow(picture))


def test_probabilities_are_the_given_ones_and_independent() -> None:
    table = drawn(Jitter(ALL, prob=0.8, grayscale_prob=0.2, blur_prob=0.5), 40_000)
    assert table.op.shape == (40_000, 6)
    jittered, grey, blurred = (table.op[:, k] != Op.IDENTITY for k in (0, 4, 5))
    assert (table.op[~jittered, :4] == Op.IDENTITY).all()
    assert set(table.op[:, 4]) == {Op.IDENTITY, Op.COLOR}
    assert (table.arg[:, 4] == 0).all()
    both = jittered * 4 + grey * 2 + blurred
    shares = [a * b * c for a in (0.2, 0.8) for b in (0.8, 0.2) for c in (0.5, 0.5)]
    counts = np.bincount(both, minlength=8)
    assert stats.chisquare(counts, np.array(shares) * 40_000).pvalue > UNLIKELY
    sigma = table.arg[blurred, 5]
    assert stats.kstest(sigma, stats.uniform(0.1, 1.9).cdf).pvalue > UNLIKELY


def test_grey_is_torchvisions(photographs: Tensor) -> None:
    table = drawn(Jitter(grayscale_prob=1.0), len(photographs))
    ours = apply_policy(photographs, table, (0, 0, 0))
    theirs = [from_pillow(F.rgb_to_grayscale(to_pillow(x), 3)) for x in photographs]
    assert torch.equal(ours, torch.stack(theirs))


def test_a_part_switched_off_leaves_the_others_numbers_alone() -> None:
    both = whole, part = [drawn(Jitter(x), 500) for x in (ALL, (0.4, 0.0, 0.2, 0.0))]
    for op in (Op.BRIGHTNESS, Op.COLOR):
        assert np.array_equal(whole.arg[whole.op == op], part.arg[part.op == op])
    first = [np.argmax(t.op == Op.BRIGHTNESS, 1) < np.argmax(t.op == Op.COLOR, 1) for t in both]
    assert np.array_equal(*first)
