"""Tensors with unknown names are matched by order only where nothing is left to doubt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ixt.errors import ModelError
from ixt.models import create_model, load_weights
from ixt.models.by_order import match_by_order

SMALL: dict[str, Any] = {"layers": [2, 1, 1, 1], "num_classes": 5}
State = dict[str, Tensor]


def renamed(state: State) -> State:
    """Nobody's names, with numbers that rise: layer1.0.conv2 is net.stage1.unit0.filter2."""
    words = {
        "layer": "net.stage",
        "conv": "filter",
        "bn": "norm",
        "downsample": "short",
        "fc": "out",
    }

    def name(key: str) -> str:
        for old, new in words.items():
            key = key.replace(old, new)
        return key.replace(".0.filter", ".unit0.filter").replace(".1.filter", ".unit1.filter")

    return OrderedDict((name(key), value) for key, value in state.items())


def source() -> Any:
    torch.manual_seed(0)
    return create_model("resnet18", **SMALL).eval()


def save(state: State, folder: Path) -> Path:
    torch.save(state, folder / "foreign.pth")
    return folder / "foreign.pth"


def test_a_foreign_resnet_gives_its_logits(tmp_path: Path) -> None:
    model, file = source(), save(renamed(source().state_dict()), tmp_path)
    torch.manual_seed(1)
    other = create_model("resnet18", **SMALL).eval()
    loaded = load_weights(other, file, by_order=True)
    assert loaded.by_order is not None
    counted = [key for key in model.state_dict() if not key.endswith("num_batches_tracked")]
    assert list(loaded.by_order.state) == counted
    assert "without ambiguity" in loaded.by_order.describe()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(other(images), model(images))


def test_the_flag_is_offered_only_where_it_works(tmp_path: Path) -> None:
    state = renamed(source().state_dict())
    offered = r"; --match-by-order matches its tensors by their order, which fits one to one$"
    with pytest.raises(ModelError, match=offered):
        load_weights(source(), save(state, tmp_path), by_order=False)
    with pytest.raises(ModelError) as caught:  # a command without the flag
        load_weights(source(), save(state, tmp_path))
    assert "--match-by-order" not in str(caught.value)
    backwards = OrderedDict(reversed(state.items()))
    with pytest.raises(ModelError) as caught:
        load_weights(source(), save(backwards, tmp_path), by_order=False)
    assert "--match-by-order" not in str(caught.value)


def test_other_classes_than_the_models_are_matched_and_the_head_replaced(tmp_path: Path) -> None:
    file = save(renamed(source().state_dict()), tmp_path)
    model: Any = create_model("resnet18", layers=SMALL["layers"], num_classes=3)
    loaded = load_weights(model, file, by_order=True, replace_head=True)
    assert (loaded.num_classes, loaded.head_replaced) == (5, True)
    assert torch.equal(model.conv1.weight, source().conv1.weight)
    headless = {k: v for k, v in renamed(source().state_dict()).items() if "out." not in k}
    loaded = load_weights(model, save(headless, tmp_path), by_order=True, replace_head=True)
    assert (loaded.num_classes, loaded.head_replaced) == (None, True)


def test_a_flag_without_effect_is_refused(tmp_path: Path) -> None:
    file = save(source().state_dict(), tmp_path)
    with pytest.raises(
        ModelError,
        match=r"its tensor names fit the model; leave out "
        r"--match-by-order$",
    ):
        load_weights(source(), file, by_order=True)


def linear(*names: str) -> State:
    return {f"{name}.weight": torch.randn(4, 4) for name in names}


DOUBTS = {
    "query, key and value of unknown names": (linear("a", "b", "c"), linear("q", "k", "v")),
    "the same names, in another order": (linear("k", "v", "q"), linear("q", "k", "v")),
    "numbers in the file alone": (linear("x.0", "x.1", "x.2"), linear("q", "k", "v")),
    "numbers that fall": (linear("x.1", "x.0"), linear("y.0", "y.1")),
}


@pytest.mark.parametrize("case", DOUBTS)
def test_layers_of_equal_shapes_are_refused_where_names_do_not_tell(case: str) -> None:
    state, own = DOUBTS[case]
    assert match_by_order(state, own, set()).problem is not None


@pytest.mark.parametrize(
    ("names", "own"),
    [
        (("x.0", "x.1", "x.2"), ("y.0", "y.1", "y.2")),
        (("conv9", "conv10"), ("f.1", "f.2")),
        (("body.q", "body.k"), ("attn.q", "attn.k")),
    ],
)
def test_rising_numbers_or_equal_names_tell(names: tuple[str, ...], own: tuple[str, ...]) -> None:
    state = linear(*names)
    match = match_by_order(state, linear(*own), set())
    assert match.problem is None and match.told_apart == len(names)
    assert [id(v) for v in match.state.values()] == [id(v) for v in state.values()]


Change = Callable[[list[tuple[str, Tensor]]], list[tuple[str, Tensor]]]
CHANGES: dict[str, tuple[Change, str]] = {
    "a tensor less": (lambda items: items[:-1], "it has"),
    "bias before weight": (
        lambda items: [(k.replace("weight", "x").replace("bias", "weight"), v) for k, v in items],
        "stands where the model has",
    ),
    "another shape": (lambda items: [(k, v[None]) for k, v in items], "has the shape"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_does_not_match_one_to_one_is_refused_and_named(case: str, tmp_path: Path) -> None:
    change, problem = CHANGES[case]
    state = OrderedDict(change(list(renamed(source().state_dict()).items())))
    with pytest.raises(ModelError, match=rf"does not fit resnet18 by order: .*{problem}"):
        load_weights(source(), save(state, tmp_path), by_order=True)


def test_blocks_that_are_listed_in_another_order_are_refused() -> None:
    model = source()
    items = list(renamed(model.state_dict()).items())
    first = [item for item in items if "stage1.unit0" in item[0] or "stage1.0" in item[0]]
    second = [item for item in items if "stage1.unit1" in item[0] or "stage1.1" in item[0]]
    start = [key for key, _ in items].index(first[0][0])
    swapped = items[:start] + second + first + items[start + len(first) + len(second) :]
    assert [v.shape for _, v in swapped] == [v.shape for _, v in items]
    match = match_by_order(dict(swapped), model.state_dict(), {"fc.weight", "fc.bias"})
    assert match.problem is not None and "the order does not show" in match.problem


def test_what_stands_beside_its_like_is_found_as_by_trying_every_swap() -> None:
    """A doubt is a swap of two neighbouring parts that leaves the sequence of shapes as it is."""
    for seed in range(200):
        torch.manual_seed(seed)
        sides = [int(n) for n in torch.randint(1, 3, (7,))]
        state = {f"{'abcdefg'[i]}.weight": torch.empty(side) for i, side in enumerate(sides)}
        own = {f"{'hijklmn'[i]}.weight": torch.empty(side) for i, side in enumerate(sides)}
        swaps = any(
            sides[start : start + size] == sides[start + size : start + 2 * size]
            for size in range(1, 4)
            for start in range(len(sides) - 2 * size + 1)
        )
        assert (match_by_order(state, own, set()).problem is not None) == swaps
