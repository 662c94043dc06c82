from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data import mixup as timm_mixup
from torch import Tensor

from ixt.pipeline.augment.mixing import mix_images, mix_targets, smooth_targets
from ixt.pipeline.plan.mixing import MixTable, draw_mix

UNLIKELY = 0.005
GROUP, CLASSES, SIZE = 6, 10, 24


def drawn(count: int, **changes: float) -> MixTable:
    """A table of `count` groups with the paper's settings."""
    settings: dict[str, Any] = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, **changes}
    return draw_mix((42, 5, np.arange(count)), image_size=SIZE, **settings)


def per_image(mode: str, groups: int, **changes: object) -> MixTable:
    """A table in pair or elem mode for `groups` groups, as the planner addresses its draws."""
    positions = np.arange(groups * GROUP)
    numbers = positions[positions % GROUP < GROUP // 2] if mode == "pair" else positions
    settings: dict[str, Any] = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "mode": mode, **changes}
    return draw_mix((42, 5, numbers), image_size=SIZE, **settings)


def images_and_labels(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=generator)
    return images.to(torch.uint8), torch.randint(0, CLASSES, (count,), generator=generator)


def timms(
    images: Tensor, labels: Tensor, table: MixTable, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor]:
    """One group through timm's FastCollateMixup, given the table's only draw."""
    lam = float(table.lam[0])
    top, left, height, width = table.box[0].tolist()
    collate = timm_mixup.FastCollateMixup(label_smoothing=0.1, num_classes=CLASSES)
    monkeypatch.setattr(collate, "_params_per_batch", lambda: (lam, bool(table.cutmix[0])))
    box = (top, top + height, left, left + width)
    monkeypatch.setattr(timm_mixup, "cutmix_bbox_and_lam", lambda *_, **__: (box, lam))
    return collate([(x.numpy(), int(y)) for x, y in zip(images, labels, strict=True)])


def test_images_and_targets_are_timms_given_its_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    table = drawn(20)
    assert 0 < table.cutmix.sum() < 20
    images, labels = images_and_labels(20 * GROUP)
    mixed = mix_images(images, table, GROUP)
    targets = mix_targets(labels, CLASSES, 0.1, table, GROUP)
    for group in range(20):
        span = slice(group * GROUP, (group + 1) * GROUP)
        theirs = timms(images[span], labels[span], table.take([group]), monkeypatch)
        assert torch.equal(mixed[span], theirs[0])
        assert torch.equal(targets[span], theirs[1])


@pytest.mark.parametrize("minmax", [None, (0.2, 0.8)])
@pytest.mark.parametrize("mode", ["pair", "elem"])
def test_other_modes_are_timms_given_their_draws(
    mode: str, minmax: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = per_image(mode, 20, prob=0.8, cutmix_minmax=minmax)
    assert 0 < table.cutmix.sum() < (table.lam != 1).sum() < len(table)
    images, labels = images_and_labels(20 * GROUP)
    before = images.clone()
    mixed = mix_images(images, table, GROUP)
    targets = mix_targets(labels, CLASSES, 0.1, table, GROUP)
    assert torch.equal(images, before)
    rows = len(table) // 20
    for group in range(20):
        span = slice(group * GROUP, (group + 1) * GROUP)
        own = table.take(slice(group * rows, (group + 1) * rows))
        theirs = timms_by_row(images[span], labels[span], own, monkeypatch)
        assert torch.equal(mixed[span], theirs[0])
        assert torch.equal(targets[span], theirs[1])


def timms_by_row(
    images: Tensor, labels: Tensor, table: MixTable, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor]:
    """One group through timm's FastCollateMixup in pair or elem mode, given the table's draws."""
    collate = timm_mixup.FastCollateMixup(label_smoothing=0.1, num_classes=CLASSES, mode=table.mode)
    drawn_once = (table.lam.astype(np.float32), table.cutmix)
    monkeypatch.setattr(collate, "_params_per_elem", lambda count: drawn_once)
    boxes = iter(
        ((y, y + height, x, x + width), lam)
        for (y, x, height, width), lam in zip(table.box.tolist(), table.lam, strict=True)
        if height * width
    )
    monkeypatch.setattr(timm_mixup, "cutmix_bbox_and_lam", lambda *_, **__: next(boxes))
    return collate([(x.numpy().copy(), int(y)) for x, y in zip(images, labels, strict=True)])


@pytest.mark.parametrize("mode", ["pair", "elem"])
def test_in_other_modes_a_group_is_mixed_the_same_in_any_batch(mode: str) -> None:
    table = per_image(mode, 8)
    images, labels = images_and_labels(8 * GROUP)
    mixed = mix_images(images, table, GROUP)
    targets = mix_targets(labels, CLASSES, 0.1, table, GROUP)
    rows = len(table) // 8
    for group in range(8):
        span = slice(group * GROUP, (group + 1) * GROUP)
        own = table.take(slice(group * rows, (group + 1) * rows))
        interleaved = images[span].contiguous(memory_format=torch.channels_last)
        assert torch.equal(mix_images(interleaved, own, GROUP), mixed[span])
        assert torch.equal(mix_targets(labels[span], CLASSES, 0.1, own, GROUP), targets[span])


def test_the_two_images_of_a_pair_share_their_draw_and_those_of_a_batch_all() -> None:
    pair = per_image("pair", 3).per_image(GROUP)
    assert len(pair) == 3 * GROUP
    by_group = pair.lam.reshape(3, GROUP)
    assert np.array_equal(by_group, by_group[:, ::-1])
    assert len(np.unique(pair.lam)) == 3 * GROUP // 2
    assert len(np.unique(per_image("elem", 3).lam)) == 3 * GROUP
    whole = drawn(3).per_image(GROUP)
    assert np.array_equal(whole.box, drawn(3).box.repeat(GROUP, axis=0))


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_boxes_of_a_given_range_are_distributed_as_timms(count: int) -> None:
    settings: dict[str, Any] = {
        "mixup_alpha": 0.0,
        "cutmix_alpha": 0.0,
        "cutmix_minmax": (0.2, 0.8),
    }
    table = draw_mix((1, 0, np.arange(count)), image_size=SIZE, **settings)
    assert table.cutmix.all()
    np.random.seed(0)
    top, bottom, left, right = timm_mixup.rand_bbox_minmax((3, SIZE, SIZE), (0.2, 0.8), count)
    theirs = np.stack([top, left, bottom - top, right - left])
    for mine, other in zip(table.box.T, theirs, strict=True):
        counts = np.stack([np.bincount(x, minlength=SIZE) for x in (mine, other)])
        counts = counts[:, counts.sum(axis=0) >= 10]
        assert stats.chi2_contingency(counts).pvalue > UNLIKELY
    share = table.box[:, 2] * table.box[:, 3] / SIZE**2
    assert np.array_equal(table.lam, 1.0 - share)


def test_a_group_is_mixed_the_same_in_any_batch_and_memory_order() -> None:
    table = drawn(8, prob=0.7)
    images, labels = images_and_labels(8 * GROUP)
    before = images.clone()
    mixed = mix_images(images, table, GROUP)
    targets = mix_targets(labels, CLASSES, 0.1, table, GROUP)
    assert torch.equal(images, before)
    for group in range(8):
        span = slice(group * GROUP, (group + 1) * GROUP)
        own = images[span].contiguous(memory_format=torch.channels_last)
        assert torch.equal(mix_images(own, table.take([group]), GROUP), mixed[span])
        alone = mix_targets(labels[span], CLASSES, 0.1, table.take([group]), GROUP)
        assert torch.equal(alone, targets[span])


def test_many_pairs_are_mixed_in_pieces_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from ixt.pipeline.augment import chunks

    table = MixTable(np.array([0.3]), np.array([False]), np.zeros((1, 4), np.int32))
    images, _ = images_and_labels(14)
    whole = mix_images(images, table, 14)
    monkeypatch.setattr(chunks, "_CPU_PIXELS", 3 * SIZE * SIZE)
    assert torch.equal(mix_images(images, table, 14), whole)
    x = images.double()
    assert (whole - (0.3 * x + 0.7 * x.flip(0))).abs().max() <= 0.5001


def test_without_mixing_images_pass_and_targets_are_smoothed() -> None:
    table = drawn(2, prob=0.0)
    assert (table.lam == 1.0).all() and not table.cutmix.any() and not table.box.any()
    images, labels = images_and_labels(2 * GROUP)
    assert mix_images(images, table, GROUP) is images
    expected = smooth_targets(labels, CLASSES, 0.1)
    assert torch.equal(mix_targets(labels, CLASSES, 0.1, table, GROUP), expected)
    assert torch.equal(smooth_targets(labels, CLASSES, 0.0), torch.eye(CLASSES)[labels])
    assert expected[0, labels[0]] == pytest.approx(0.91)
    assert expected.sum(dim=1).tolist() == pytest.approx([1.0] * len(labels))


def test_an_image_left_out_has_no_target_of_its_own() -> None:
    labels = torch.tensor([3, -1, 4, 5])
    smooth = smooth_targets(labels, CLASSES, 0.1)
    assert not smooth[1].any() and smooth[[0, 2, 3]].all()
    table = MixTable(np.array([0.75]), np.array([False]), np.zeros((1, 4), np.int32))
    mixed = mix_targets(labels, CLASSES, 0.1, table, 4)
    assert torch.equal(mixed[1], 0.25 * smooth[2])
    assert torch.equal(mixed[2], 0.75 * smooth[2])


def test_groups_that_do_not_fit_are_refused() -> None:
    images, labels = images_and_labels(9)
    table = drawn(3)
    with pytest.raises(ValueError, match="9 images for 3 groups of 3"):
        mix_images(images, table, 3)
    with pytest.raises(ValueError, match="9 images for 3 groups of 4"):
        mix_targets(labels, CLASSES, 0.1, table, 4)
    with pytest.raises(ValueError, match=r"9 images for 1\.5 groups of 6"):
        mix_images(
            images, MixTable(np.ones(9), np.zeros(9, bool), np.zeros((9, 4), np.int32), "elem"), 6
        )
    with pytest.raises(ValueError, match="both 0"):
        drawn(1, mixup_alpha=0.0, cutmix_alpha=0.0)


def test_draws_depend_on_their_own_group_only() -> None:
    whole = drawn(50)
    some = draw_mix((42, 5, np.array([49, 2])), image_size=SIZE, mixup_alpha=0.8, cutmix_alpha=1.0)
    for name in ("lam", "cutmix", "box"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole.take([49, 2]), name))
    assert len(some) == 2


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_mixup_lambda_is_beta_distributed(alpha: float) -> None:
    lam = drawn(100_000, mixup_alpha=alpha, cutmix_alpha=0.0).lam
    assert stats.kstest(lam, stats.beta(alpha, alpha).cdf).pvalue > UNLIKELY


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_cutmix_boxes_and_lambda_are_distributed_as_timms(count: int) -> None:
    table = drawn(count, mixup_alpha=0.0)
    assert table.cutmix.all()
    box = table.box.astype(int)
    np.testing.assert_array_equal(table.lam, 1.0 - box[:, 2] * box[:, 3] / float(SIZE**2))
    np.random.seed(0)
    theirs = []
    for _ in range(count):
        lam = np.random.beta(1.0, 1.0)
        (y0, y1, x0, x1), lam = timm_mixup.cutmix_bbox_and_lam((3, SIZE, SIZE), lam)
        theirs.append((lam, y0, x0, y1 - y0, x1 - x0))
    ours = np.column_stack([table.lam, box])
    for mine, other in zip(ours.T, np.array(theirs).T, strict=True):
        assert stats.ks_2samp(mine, other).pvalue > UNLIKELY


def test_mixing_and_switching_have_the_given_probabilities() -> None:
    table = drawn(50_000, prob=0.6, switch_prob=0.3)
    kept = (table.lam == 1.0) & ~table.cutmix
    counts = [kept.sum(), (~kept & ~table.cutmix).sum(), table.cutmix.sum()]
    expected = np.array([0.4, 0.6 * 0.7, 0.6 * 0.3]) * 50_000
    assert stats.chisquare(counts, expected).pvalue > UNLIKELY


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_a_gpu_mixes_to_the_same_pixels_and_targets(mode: str) -> None:
    table = drawn(8) if mode == "batch" else per_image(mode, 8)
    images, labels = images_and_labels(8 * GROUP)
    there = mix_images(images.cuda(), table, GROUP).cpu()
    assert torch.equal(there, mix_images(images, table, GROUP))
    targets = mix_targets(labels.cuda(), CLASSES, 0.1, table, GROUP).cpu()
    torch.testing.assert_close(targets, mix_targets(labels, CLASSES, 0.1, table, GROUP))
