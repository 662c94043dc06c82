from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch
from photographs import from_pillow, to_pillow
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP
from torch import Tensor

from ixt.pipeline.augment import chunks, levels, warp
from ixt.pipeline.augment.layers import apply_policy
from ixt.pipeline.augment.normalise import interleave, normalise
from ixt.pipeline.augment.warp import GEOMETRIC
from ixt.pipeline.plan.crop import BICUBIC, BILINEAR
from ixt.pipeline.plan.policy.jitter import Jitter, draw_jitter
from ixt.pipeline.plan.policy.ops import Frame, Op, OpTable
from ixt.pipeline.plan.policy.rand import RandAugment, draw_rand, parse_rand

FILL = (124, 116, 104)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PILLOW_FILTERS = {
    BILINEAR: Image.Resampling.BILINEAR,
    BICUBIC: Image.Resampling.BICUBIC,
}
TIMM_NAMES = {
    Op.AUTOCONTRAST: "AutoContrast",
    Op.EQUALIZE: "Equalize",
    Op.INVERT: "Invert",
    Op.POSTERIZE: "Posterize",
    Op.SOLARIZE: "Solarize",
    Op.SOLARIZE_ADD: "SolarizeAdd",
    Op.BRIGHTNESS: "Brightness",
    Op.CONTRAST: "Contrast",
    Op.COLOR: "Color",
    Op.SHARPNESS: "Sharpness",
    Op.ROTATE: "Rotate",
    Op.SHEAR_X: "ShearX",
    Op.SHEAR_Y: "ShearY",
    Op.TRANSLATE_X: "TranslateX",
    Op.TRANSLATE_Y: "TranslateY",
    Op.GAUSSIAN_BLUR: "GaussianBlur",
}
WITHOUT_ARGUMENT = (Op.AUTOCONTRAST, Op.EQUALIZE, Op.INVERT)
WHOLE_ARGUMENT = (Op.POSTERIZE, Op.SOLARIZE, Op.SOLARIZE_ADD)
# Twenty arguments per operation over and past the range that RandAugment reaches.
FACTORS = [0.0, 1.0, *np.linspace(0.05, 2.2, 18)]
ARGUMENTS = {
    Op.POSTERIZE: range(0, 9),
    Op.SOLARIZE: range(0, 257, 13),
    Op.SOLARIZE_ADD: range(0, 129, 6),
    Op.BRIGHTNESS: FACTORS,
    Op.CONTRAST: FACTORS,
    Op.COLOR: FACTORS,
    Op.SHARPNESS: FACTORS,
    Op.GAUSSIAN_BLUR: np.linspace(0.1, 2.0, 20),
    Op.ROTATE: [0, 90, *np.linspace(-31.3, 31.9, 18)],
    Op.SHEAR_X: np.linspace(-0.31, 0.32, 20),
    Op.SHEAR_Y: np.linspace(-0.31, 0.32, 20),
    Op.TRANSLATE_X: [5, 300, *np.linspace(-101.3, 102.9, 18)],
    Op.TRANSLATE_Y: [5, 300, *np.linspace(-101.3, 102.9, 18)],
}


def with_pillow(image: Tensor, op: int, arg: float, kernel: int) -> Tensor:
    """One (3, S, S) image through timm's own function."""
    if op == Op.IDENTITY:
        return image
    values = [] if op in WITHOUT_ARGUMENT else [(int if op in WHOLE_ARGUMENT else float)(arg)]
    done = NAME_TO_OP[TIMM_NAMES[Op(op)]](
        to_pillow(image), *values, resample=PILLOW_FILTERS[kernel], fillcolor=FILL
    )
    return from_pillow(done)


def single(op: int, args: Sequence[float], kernel: int = BILINEAR) -> OpTable:
    """A table of one layer with the same operation for each argument."""
    arg = np.array(args, np.float64)[:, None]
    return OpTable(np.full(arg.shape, op, np.uint8), arg, np.full(arg.shape, kernel, np.uint8))


def both_ways(
    images: Tensor, op: int, args: Iterable[float], kernel: int = BILINEAR, *, crossed: bool = False
) -> list[Tensor]:
    """The same operation by apply_policy and by Pillow, int32.

    Each argument goes with one image, in turn; or with all images where crossed.
    """
    args = list(args)
    if crossed:
        args = [arg for arg in args for _ in images]
    taken = torch.stack([images[k % len(images)] for k in range(len(args))])
    ours = apply_policy(taken, single(op, args, kernel), FILL)
    theirs = [with_pillow(x, op, a, kernel) for x, a in zip(taken, args, strict=True)]
    return [ours.int(), torch.stack(theirs).int()]


@pytest.mark.parametrize("op", [op for op in TIMM_NAMES if op not in GEOMETRIC])
def test_operation_on_grey_levels_is_pillows_to_the_level(photographs: Tensor, op: Op) -> None:
    ours, theirs = both_ways(photographs, op, ARGUMENTS.get(op, [0.0] * len(photographs)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("op", [op for op in TIMM_NAMES if op not in GEOMETRIC])
def test_every_photograph_at_every_strength_is_pillows_to_the_level(
    photographs: Tensor, op: Op
) -> None:
    ours, theirs = both_ways(photographs, op, ARGUMENTS.get(op, [0.0]), crossed=True)
    assert torch.equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [BILINEAR, BICUBIC])
@pytest.mark.parametrize("op", GEOMETRIC)
def test_every_photograph_is_moved_as_pillow_does(photographs: Tensor, op: Op, kernel: int) -> None:
    ours, theirs = both_ways(photographs, op, ARGUMENTS[op], kernel, crossed=True)
    difference = (ours - theirs).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 2e-3


@pytest.mark.parametrize("kernel", [BILINEAR, BICUBIC])
@pytest.mark.parametrize("op", GEOMETRIC)
def test_geometric_operation_is_pillows_but_for_rounding(
    photographs: Tensor, op: Op, kernel: int
) -> None:
    ours, theirs = both_ways(photographs, op, ARGUMENTS[op], kernel)
    difference = (ours - theirs).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 2e-3
    outside = (theirs == torch.tensor(FILL).view(3, 1, 1)).all(dim=1)
    assert outside.float().mean() > 0.02  # so the fill colour was put to the test
    assert (ours.permute(0, 2, 3, 1)[outside] == torch.tensor(FILL)).all()


@pytest.mark.parametrize("op", [Op.AUTOCONTRAST, Op.EQUALIZE, Op.CONTRAST, Op.SHARPNESS])
def test_flat_and_tiny_images_are_handled_as_pillow_does(op: Op) -> None:
    flat = torch.full((1, 3, 40, 40), 77, dtype=torch.uint8)
    nearly = flat.clone()
    nearly[0, 1, 3, 5] = 78
    for images in (flat, nearly, flat[:, :, :1, :1], flat[:, :, :2, :2], nearly[:, :, 2:5, 4:7]):
        ours, theirs = both_ways(images.contiguous(), op, [1.7])
        assert torch.equal(ours, theirs)


def test_whole_policy_is_timms_operation_after_operation(photographs: Tensor) -> None:
    images = photographs.repeat(4, 1, 1, 1)
    policy = parse_rand("rand-m9-n3-mstd0.5-inc1")
    table = draw_rand(policy, (5, 0, np.arange(len(images))), Frame(224))
    ours = apply_policy(images, table, FILL)
    theirs = images.clone()
    for layer in range(3):
        for row in range(len(images)):
            drawn = (column[row, layer].item() for column in (table.op, table.arg, table.filter))
            theirs[row] = with_pillow(theirs[row], *drawn)
    difference = (ours.int() - theirs.int()).abs().float().mean(dim=(1, 2, 3))
    moved = torch.from_numpy(np.isin(table.op, GEOMETRIC).any(axis=1))
    assert 0 < moved.sum() < len(images)
    assert (difference[~moved] == 0).all()
    # A level off before equalize or posterize can grow.
    assert (difference[moved] < 0.1).all()


def every_operation() -> OpTable:
    """A table of three layers in which every operation occurs, with both filters."""
    policy = RandAugment(names=parse_rand("rand-inc1").names, num_layers=3, magnitude_std=2.0)
    table = draw_rand(policy, (9, 1, np.arange(40)), Frame(64))
    blurred = draw_rand(parse_rand("rand-n3-t3a-p1"), (9, 1, np.arange(8)), Frame(64))
    jitter = Jitter((0.4, 0.4, 0.4, 0.2), grayscale_prob=0.3, blur_prob=0.5)
    drawn = draw_jitter(jitter, (9, 1, np.arange(12)))
    assert drawn is not None
    jittered = drawn.take((slice(None), [0, 3, 5]))
    joined = OpTable(
        *(np.concatenate([getattr(t, f) for t in (table, blurred, jittered)]) for f in vars(table))
    )
    assert set(joined.op.ravel()) == {int(op) for op in Op}
    return joined


def small(photographs: Tensor, count: int) -> Tensor:
    """(count, 3, 64, 64) uint8 cut-outs of the photographs."""
    starts = [(7 * k % 160, 11 * k % 160) for k in range(count)]
    cuts = [
        photographs[k % len(photographs), :, y : y + 64, x : x + 64]
        for k, (y, x) in enumerate(starts)
    ]
    return torch.stack(cuts)


def test_a_row_is_the_same_alone_in_any_batch_and_in_any_order(photographs: Tensor) -> None:
    table = every_operation()
    images = small(photographs, len(table))
    whole = apply_policy(images, table, FILL)
    for row in range(len(table)):
        alone = apply_policy(images[row : row + 1], table.take([row]), FILL)
        assert torch.equal(alone[0], whole[row])
    order = np.random.default_rng(0).permutation(len(table))[:31]
    assert torch.equal(apply_policy(images[order], table.take(order), FILL), whole[order])


def test_result_depends_neither_on_chunks_nor_on_memory_order(
    photographs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = every_operation()
    images = small(photographs, len(table))
    whole = apply_policy(images, table, FILL)
    interleaved = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(apply_policy(interleaved, table, FILL), whole)
    for pixels in (1, 5 * 64 * 64, 10**9):
        monkeypatch.setattr(chunks, "_CPU_PIXELS", pixels)
        assert torch.equal(apply_policy(images, table, FILL), whole)


def test_images_given_stay_as_they_are_and_nothing_to_do_costs_nothing(
    photographs: Tensor,
) -> None:
    before = photographs.clone()
    changed = apply_policy(photographs, single(Op.INVERT, [0.0] * len(photographs)), FILL)
    assert torch.equal(photographs, before)
    assert torch.equal(changed, 255 - before)
    idle = single(Op.IDENTITY, [0.0] * len(photographs))
    assert apply_policy(photographs, idle, FILL) is photographs


def test_table_of_another_length_is_refused(photographs: Tensor) -> None:
    with pytest.raises(ValueError, match="3 rows of operations for 14 images"):
        apply_policy(photographs, single(Op.INVERT, [0.0] * 3), FILL)


def test_histograms_of_a_gpu_and_a_cpu_agree(photographs: Tensor) -> None:
    counts = levels._histograms(photographs)
    assert torch.equal(levels._scattered_histograms(photographs), counts)
    assert (counts.sum(dim=2) == 224 * 224).all()


@pytest.mark.parametrize("farthest", [0.5, 3.0, 224.0, 1000.0])
def test_rows_moved_on_a_gpu_and_a_cpu_agree(photographs: Tensor, farthest: float) -> None:
    draws = np.random.default_rng(0).uniform(-farthest, farthest, (len(photographs), 224))
    for whole in np.floor(draws), np.floor(abs(draws)), np.floor(-abs(draws)):
        moved = warp._copied_rows(photographs, whole)
        assert torch.equal(moved, warp._gathered_rows(photographs, whole))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_interleave_changes_the_memory_order_alone(
    photographs: Tensor, memory_format: torch.memory_format
) -> None:
    images = photographs.contiguous(memory_format=memory_format)
    turned = interleave(images)
    assert torch.equal(turned, images)
    assert turned.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalise_is_timms_and_keeps_the_memory_order(
    photographs: Tensor, memory_format: torch.memory_format
) -> None:
    images = photographs.contiguous(memory_format=memory_format)
    ours = normalise(images, MEAN, STD)
    # As timm's PrefetchLoader does it.
    mean, std = (torch.tensor([x * 255 for x in v]).view(1, 3, 1, 1) for v in (MEAN, STD))
    assert torch.equal(ours, images.float().sub_(mean).div_(std))
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=memory_format)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_pixels(photographs: Tensor) -> None:
    table = every_operation()
    images = small(photographs, len(table))
    here, there = (apply_policy(x, table, FILL).cpu().int() for x in (images, images.cuda()))
    assert torch.equal(here, there)
    assert torch.equal(normalise(images, MEAN, STD), normalise(images.cuda(), MEAN, STD).cpu())
