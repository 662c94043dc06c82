"""The plan is a pure function of (seed, epoch, position)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.distributed_sampler import RepeatAugSampler

from ixt.pipeline.plan.hashing import hash64, randint, uniform
from ixt.pipeline.plan.plan import Plan, Planner, build_planner, repeat_within_batches
from ixt.recipe import Recipe, parse_recipe

COUNT = 1000
GOLDEN = 0x366B905878AC93BC


@pytest.fixture
def planner(tiny: Recipe) -> Planner:
    labels = np.arange(COUNT) % 10
    sizes = np.stack([200 + np.arange(COUNT) % 300, 300 + np.arange(COUNT) % 100], axis=1)
    return build_planner(tiny, labels, sizes.astype(np.int32))


def arrays(value: Any, name: str = "") -> dict[str, np.ndarray]:
    """Every array of a plan by its path, rows first."""
    if isinstance(value, np.ndarray):
        return {name: value}
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return {
            key: array
            for field in fields
            for key, array in arrays(getattr(value, field), f"{name}.{field}").items()
        }
    return {}


def plan(planner: Planner, epoch: int, start: int, count: int) -> Plan:
    return planner.plan(epoch, planner.order(epoch), np.arange(start, start + count))


def test_an_epochs_order_is_a_permutation_and_differs_by_epoch_and_seed(planner: Planner) -> None:
    first, second = planner.order(0), planner.order(1)
    assert np.array_equal(np.sort(first), np.arange(COUNT))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, planner.order(0))
    assert not np.array_equal(first, dataclasses.replace(planner, seed=1).order(0))


def test_the_hash_is_the_one_of_every_release() -> None:
    # Written down once: a change here would silently change every run that is resumed.
    assert hash64(42, 0, 7, 1) == np.uint64(GOLDEN)


def assert_same_in_parts(planner: Planner) -> None:
    """Two halves of a batch have the plan of the whole."""
    whole = plan(planner, 3, 128, 128)
    parts = [plan(planner, 3, start, 64) for start in (128, 192)]
    split = [arrays(part) for part in parts]
    for name, array in arrays(whole).items():
        axis = next(a for a in range(array.ndim) if split[0][name].shape[a] != array.shape[a])
        joined = np.concatenate([part[name] for part in split], axis=axis)
        assert np.array_equal(joined, array), name


def test_a_batch_is_planned_the_same_in_parts(planner: Planner) -> None:
    assert_same_in_parts(planner)


VARIANTS: list[dict[str, Any]] = [
    {"policy": "original-mstd0.5"},
    {"policy": "augmix", "mix_mode": "pair"},
    {"policy": "trivial", "mix_mode": "elem", "erase_count": 3, "erase_min_count": 2},
    {"policy": "3a", "color_jitter": 0.3, "crop_mode": "src", "repeats": 3},
    {
        "policy": None,
        "color_jitter": [0.4, 0.4, 0.4, 0.1],
        "color_jitter_prob": 0.8,
        "grayscale_prob": 0.2,
        "gaussian_blur_prob": 0.5,
        "cutmix_alpha": 0.0,
        "cutmix_minmax": [0.2, 0.8],
    },
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_every_setting_is_planned_the_same_in_parts(
    tiny_sections: dict[str, dict[str, Any]], changes: dict[str, Any]
) -> None:
    sections = {**tiny_sections, "augment": {**tiny_sections["augment"], **changes}}
    sizes = np.stack([200 + np.arange(COUNT) % 300, 300 + np.arange(COUNT) % 100], axis=1)
    planner = build_planner(parse_recipe(sections), np.arange(COUNT) % 10, sizes.astype(np.int32))
    assert_same_in_parts(planner)


def test_repeats_share_an_update_and_are_spread_over_it() -> None:
    order = repeat_within_batches(np.arange(1152), repeats=3, batch=96)
    for update in order.reshape(-1, 96):
        copies = update.reshape(3, 32)
        assert (copies == copies[0]).all()
    assert np.array_equal(np.unique(order), np.arange(384))
    assert (np.bincount(order) == 3).all()


@pytest.mark.parametrize(
    ("count", "repeats", "batch"), [(1000, 3, 64), (1000, 2, 250), (77, 4, 20)]
)
def test_an_update_holds_what_timms_ranks_hold_together(
    count: int, repeats: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = np.random.default_rng(0).permutation(count)
    monkeypatch.setattr(torch, "randperm", lambda *_, **__: torch.from_numpy(samples))
    order = repeat_within_batches(samples, repeats, batch)
    assert len(order) == count
    for ranks in (1, 2):
        shares = [
            list(RepeatAugSampler(range(count), ranks, rank, num_repeats=repeats, selected_round=0))
            for rank in range(ranks)
        ]
        for update in range(count // batch):
            own = slice(update * batch // ranks, (update + 1) * batch // ranks)
            theirs = np.concatenate([share[own] for share in shares])
            ours = order[update * batch : (update + 1) * batch]
            assert np.array_equal(np.sort(ours), np.sort(theirs))


def test_the_fingerprint_of_labels_changes_with_a_label_and_the_other_does_not(
    planner: Planner,
) -> None:
    one = plan(planner, 3, 0, 64)
    labels = one.labels.copy()
    labels[5] += 1
    other = dataclasses.replace(one, labels=labels)
    assert other.label_fingerprint != one.label_fingerprint
    assert other.fingerprint == one.fingerprint
    parts = sum(plan(planner, 3, start, 32).label_fingerprint for start in (32, 0))
    assert parts % 2**64 == one.label_fingerprint


def test_fingerprints_of_parts_add_up_to_the_wholes(planner: Planner) -> None:
    whole = plan(planner, 3, 128, 128).fingerprint
    parts = sum(plan(planner, 3, start, 64).fingerprint for start in (192, 128))
    assert whole == parts % 2**64
    assert whole != plan(planner, 4, 128, 128).fingerprint


def test_windows_lie_inside_their_images(planner: Planner) -> None:
    drawn = plan(planner, 0, 0, 960)
    top, left, height, width = drawn.crops.window.T
    size = planner.sizes[drawn.samples]
    assert (top >= 0).all() and (left >= 0).all() and (height > 0).all() and (width > 0).all()
    assert (top + height <= size[:, 0]).all() and (left + width <= size[:, 1]).all()


def test_uniform_numbers_are_uniform_and_unrelated() -> None:
    numbers = np.stack([uniform(1, 2, np.arange(100_000), draw) for draw in range(2)])
    counts = np.histogram(numbers[0], bins=20, range=(0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi-square, 19 degrees, p = 0.001
    assert abs(stats.pearsonr(*numbers).statistic) < 0.01
    assert set(randint(3, 1, np.arange(100)).tolist()) == {0, 1, 2}
