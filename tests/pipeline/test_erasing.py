import random
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ndtri
from timm.data.random_erasing import RandomErasing

from ixt.pipeline.augment.erasing import erase
from ixt.pipeline.plan.erasing import EraseBoxes, draw_boxes
from ixt.pipeline.plan.hashing import Draw, hash64

UNLIKELY = 0.005


def boxes_of(*rows: list[list[int]]) -> EraseBoxes:
    return EraseBoxes(np.array(rows, np.int32))


def keys_of(*positions: int) -> tuple[int, int, np.ndarray]:
    return 42, 3, np.array(positions)


@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_box_areas_shapes_and_places_are_distributed_as_timms(count: int) -> None:
    size = 64
    ours = draw_boxes((42, 0, np.arange(max(count, 20_000))), size, prob=1.0).box[:, 0]
    random.seed(2)
    theirs = np.array([timms_box(size) for _ in range(count)])
    assert (ours[:, 2:] > 0).all()
    for value in (area, aspect, top, left):
        assert stats.ks_2samp(value(ours), value(theirs)).pvalue > UNLIKELY


def timms_box(size: int) -> tuple[int, int, int, int]:
    """Top, left, height, width of the box that timm's RandomErasing zeroes."""
    image = RandomErasing(1.0, mode="const", device="cpu")(torch.ones(1, size, size))
    rows, columns = ((image[0] == 0).any(dim).nonzero()[:, 0] for dim in (1, 0))
    return int(rows[0]), int(columns[0]), len(rows), len(columns)


@pytest.mark.parametrize("count", [2000, pytest.param(40_000, marks=pytest.mark.slow)])
def test_other_ranges_and_counts_are_distributed_as_timms(count: int) -> None:
    size = 32
    settings: dict[str, Any] = {"min_count": 2, "area": (0.1, 0.3), "aspect": (0.5, 1.0)}
    drawn = draw_boxes((42, 0, np.arange(count)), size, prob=1.0, count=3, **settings).box
    theirs = RandomErasing(
        1.0, 0.1, 0.3, 0.5, 1.0, mode="const", min_count=2, max_count=3, device="cpu"
    )
    random.seed(1)
    erased = [int((theirs(torch.ones(1, size, size)) == 0).sum()) for _ in range(count)]
    ours = erase(
        torch.ones(count, 3, size, size), EraseBoxes(drawn), "const", keys_of(*range(count))
    )
    mine = (ours[:, 0] == 0).sum(dim=(1, 2)).numpy()
    assert stats.ks_2samp(mine, erased).pvalue > UNLIKELY
    number = (drawn[:, :, 2] > 0).sum(axis=1)
    assert stats.chisquare(np.bincount(number, minlength=4)[2:]).pvalue > UNLIKELY


def area(box: np.ndarray) -> np.ndarray:
    return box[:, 2] * box[:, 3]


def aspect(box: np.ndarray) -> np.ndarray:
    return box[:, 2] / box[:, 3]


def top(box: np.ndarray) -> np.ndarray:
    return box[:, 0]


def left(box: np.ndarray) -> np.ndarray:
    return box[:, 1]


def test_images_are_erased_with_the_given_probability() -> None:
    boxes = draw_boxes((42, 0, np.arange(40_000)), 224, prob=0.25).box
    assert abs((boxes[:, 0, 2] > 0).mean() - 0.25) < 0.01
    assert not draw_boxes((42, 0, np.arange(1000)), 224, prob=0.0).box.any()


def test_one_to_count_boxes_share_the_area() -> None:
    boxes = draw_boxes((42, 0, np.arange(30_000)), 224, prob=1.0, count=3).box.astype(int)
    areas = boxes[:, :, 2] * boxes[:, :, 3] / 224**2
    number = (areas > 0).sum(axis=1)
    assert stats.chisquare(np.bincount(number, minlength=4)[1:]).pvalue > UNLIKELY
    for k in (1, 2, 3):
        assert areas[number == k].max() < (1 / 3 / k) * 1.02
        assert areas[number == k][:, :k].mean() == pytest.approx((0.02 + 1 / 3) / 2 / k, rel=0.02)


def test_boxes_lie_inside_and_depend_on_their_own_position_only() -> None:
    whole = draw_boxes((42, 1, np.arange(500)), 33, prob=0.9, count=2)
    assert (whole.box >= 0).all()
    assert (whole.box[..., :2] + whole.box[..., 2:] <= 33).all()
    rows = np.array([499, 0, 7])
    some = draw_boxes((42, 1, rows), 33, prob=0.9, count=2)
    np.testing.assert_array_equal(some.box, whole.take(rows).box)
    assert len(some) == 3


def test_pixel_noise_is_the_normal_quantile_of_sixteen_bits_of_the_hash() -> None:
    images = torch.full((2, 3, 8, 8), 9.0)
    erase(images, boxes_of([[2, 3, 4, 5]], [[0, 0, 0, 0]]), "pixel", keys_of(11, 12))
    assert (images[1] == 9.0).all()
    for y in range(8):
        for x in range(8):
            word = int(hash64(42, 3, 11, Draw.ERASE_NOISE, 8 * y + x))
            for channel in range(3):
                share = ((word >> (16 * channel)) % 2**16 + 0.5) / 2**16
                inside = 2 <= y < 6 and 3 <= x < 8
                expected = np.float32(ndtri(share)) if inside else 9.0
                assert images[0, channel, y, x] == expected


def test_pixel_noise_is_standard_normal_and_uncorrelated() -> None:
    images = torch.zeros(8, 3, 128, 128)
    erase(images, boxes_of(*[[[0, 0, 128, 128]]] * 8), "pixel", keys_of(*range(8)))
    noise = images.double().numpy()
    assert abs(noise.mean()) < 4 / noise.size**0.5
    assert noise.std() == pytest.approx(1.0, abs=4 / (2 * noise.size) ** 0.5 + 1e-4)
    assert stats.kstest(noise.ravel()[:100_000], "norm").pvalue > UNLIKELY
    rows = [noise[:, c].ravel() for c in range(3)]
    rows += [np.roll(noise[:, 0], 1, axis=2).ravel(), np.roll(noise[:, 0], 1, axis=0).ravel()]
    off_diagonal = np.corrcoef(rows) - np.eye(5)
    assert np.abs(off_diagonal).max() < 5 / rows[0].size ** 0.5


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_an_image_is_erased_the_same_in_any_batch_and_memory_order(mode: str) -> None:
    positions = np.arange(100, 140)
    boxes = draw_boxes((42, 3, positions), 48, prob=0.8, count=3)
    whole = erase(torch.ones(40, 3, 48, 48), boxes, mode, keys_of(*positions))
    for row in range(40):
        alone = torch.ones(1, 3, 48, 48).contiguous(memory_format=torch.channels_last)
        erase(alone, boxes.take([row]), mode, keys_of(positions[row]))
        assert torch.equal(alone[0], whole[row])


def test_const_erases_to_zero_and_leaves_the_rest() -> None:
    images = torch.ones(1, 3, 10, 10)
    assert erase(images, boxes_of([[1, 2, 3, 4]]), "const", keys_of(0)) is images
    expected = torch.ones(10, 10)
    expected[1:4, 2:6] = 0
    assert torch.equal(images, expected.expand(1, 3, 10, 10))


def test_rand_gives_each_box_one_colour_and_the_later_box_wins() -> None:
    images = torch.zeros(1, 3, 10, 10)
    erase(images, boxes_of([[0, 0, 6, 6], [4, 4, 5, 5]]), "rand", keys_of(5))
    first, second = images[0, :, 0, 0], images[0, :, 5, 5]
    assert first.unique().numel() == 3
    assert not torch.equal(first, second)
    expected = torch.zeros(3, 10, 10)
    expected[:, :6, :6] = first[:, None, None]
    expected[:, 4:9, 4:9] = second[:, None, None]
    assert torch.equal(images[0], expected)


def test_rand_colours_are_standard_normal() -> None:
    images = torch.zeros(4000, 3, 1, 1)
    erase(images, boxes_of(*[[[0, 0, 1, 1]]] * 4000), "rand", keys_of(*range(4000)))
    assert stats.kstest(images.flatten().numpy(), "norm").pvalue > UNLIKELY


def test_wrong_arguments_are_refused() -> None:
    boxes = boxes_of([[0, 0, 1, 1]])
    with pytest.raises(ValueError, match="'noise'; allowed: const, rand, pixel"):
        erase(torch.ones(1, 3, 4, 4), boxes, "noise", keys_of(0))
    with pytest.raises(ValueError, match="1 rows of boxes for 2 images"):
        erase(torch.ones(2, 3, 4, 4), boxes, "const", keys_of(0, 1))


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_a_gpu_erases_with_the_same_numbers(mode: str) -> None:
    boxes = draw_boxes(keys_of(*range(64)), 48, prob=0.8, count=3)
    here, there = (
        erase(torch.ones(64, 3, 48, 48, device=device), boxes, mode, keys_of(*range(64))).cpu()
        for device in ("cpu", "cuda")
    )
    assert torch.equal(here, there)
