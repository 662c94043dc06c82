from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from ixt.errors import DataError
from ixt.images.index import Index, load_index, target_labels
from ixt.pipeline.decode.base import Request
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.eval_loader import EvalLoader
from ixt.pipeline.loader import TrainLoader
from ixt.pipeline.plan.crop import eval_crops
from ixt.pipeline.plan.plan import Planner, build_planner
from ixt.recipe import Recipe, dump_recipe
from ixt.tools.show.from_loaders import take_samples
from ixt.tools.show.grid import caption, draw_grid
from ixt.tools.show.sample import Sample, row_numbers
from ixt.tools.show.table import flatten, print_samples

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def index(digits: Path) -> Index:
    return load_index(digits, "train")


@pytest.fixture
def planner(tiny: Recipe, index: Index) -> Planner:
    return build_planner(tiny, target_labels(index, index.classes), index.sizes)


@pytest.fixture
def shown(tiny: Recipe, digits: Path) -> list[Sample]:
    """Eight samples of the second mixing group of epoch 3."""
    return take_samples(digits, "train", tiny, 3, position=70, count=8)


def test_a_sample_is_bit_for_bit_what_training_gets(
    tiny: Recipe, index: Index, planner: Planner, digits: Path
) -> None:
    # One of two processes, with micro-batches of two mixing groups.
    recipe = tiny.with_(augment={"mixing_group": 32, "mix_prob": 0.7})
    planner = build_planner(recipe, planner.labels, planner.sizes)
    decoder = make_decoder("torch", device=CPU, num_threads=2, prefetch=2, on_error="stop")
    loader = TrainLoader(
        index, planner, decoder, recipe, num_classes=10, device=CPU, rank=1, world_size=2
    )
    # Update 2 takes positions 512 to 767; of them this process has 576 to 639 first.
    batch = next(loader.epoch(5, first_update=2))
    decoder.close()
    samples = take_samples(digits, "train", recipe, 5, position=570, count=75)
    mine = [sample for sample in samples if 576 <= sample.position < 640]
    assert len(mine) == 64
    assert torch.equal(torch.stack([sample.image for sample in mine]), batch.images)
    assert {sample.partner is None for sample in samples} == {True, False}
    for sample, target in zip(mine, batch.targets, strict=True):
        assert max(sample.targets.values()) == float(target.max())


def test_an_evaluation_sample_is_bit_for_bit_what_the_evaluation_gets(
    tiny: Recipe, digits: Path
) -> None:
    index = load_index(digits, "val")
    decoder = make_decoder("torch", device=CPU, num_threads=2, prefetch=2, on_error="stop")
    labels = target_labels(index, index.classes)
    loader = EvalLoader(index, labels, decoder, tiny, device=CPU, rank=1, world_size=3)
    (batch,) = loader
    samples = take_samples(digits, "val", tiny, 0, position=118, count=4)
    assert torch.equal(torch.stack([s.image for s in samples[2:]]), batch.images[:2])
    assert [s.label for s in samples[2:]] == batch.labels[:2].tolist()
    # The grey levels before normalisation come back exactly.
    crops = eval_crops(index.sizes[118:122], size=32, crop_pct=1.0)
    (decoded,) = decoder.stream([Request(index.ranges(range(118, 122)), crops)])
    decoder.close()
    assert np.array_equal(
        np.stack([s.pixels for s in samples]), decoded.images.permute(0, 2, 3, 1).numpy()
    )
    assert samples[0].numbers["crops"]["window"] == [0, 0, 32, 32]


def test_the_numbers_are_the_plans(shown: list[Sample], planner: Planner, index: Index) -> None:
    plan = planner.plan(3, planner.order(3), np.arange(64, 128))
    assert plan.ops is not None and plan.boxes is not None and plan.mix is not None
    for sample in shown:
        row = sample.position - 64
        assert sample.source.path == index.paths(plan.samples[[row]])[0]
        assert sample.source.class_name == Path(sample.source.path).parent.name
        assert sample.label == plan.labels[row]
        numbers = sample.numbers
        assert numbers["crops"]["window"] == plan.crops.window[row].tolist()
        assert numbers["crops"]["hflip"] is bool(plan.crops.hflip[row])
        assert numbers["ops"]["arg"] == plan.ops.arg[row].tolist()
        assert numbers["boxes"]["box"] == plan.boxes.box[row].tolist()
        assert numbers["mix"]["lam"] == plan.mix.lam[0]
        assert sample.partner is not None
        position, partner = sample.partner
        assert position == 64 + 63 - row
        assert partner.path == index.paths(plan.samples[[63 - row]])[0]


def test_any_table_of_a_plan_becomes_numbers() -> None:
    @dataclass
    class Inner:
        op: np.ndarray
        note: str | None

    @dataclass
    class Outer:
        ops: Inner
        missing: Inner | None
        shared: np.ndarray
        size: int

    table = Outer(
        Inner(np.array([[0, 11], [3, 4], [5, 6], [7, 8]]), None), None, np.array([0.5, 0.25]), 7
    )
    assert row_numbers(table, 0, 4) == {
        "ops": {"op": ["identity", "rotate"]},
        "shared": 0.5,
        "size": 7,
    }
    last = row_numbers(table, 3, 4)
    assert (last["ops"]["op"], last["shared"]) == (["brightness", "contrast"], 0.25)
    nested = {"a": {"b": [[1, 2.5], [True, "x"]]}, "c": 1 / 3}
    assert flatten(nested) == {"a.b": "[1 2.5] [yes x]", "c": "0.3333"}


def test_the_chains_of_augmix_become_plain_data(tiny: Recipe, digits: Path) -> None:
    recipe = tiny.with_(augment={"policy": "augmix-m3-w3"})
    (sample,) = take_samples(digits, "train", recipe, 0, position=0, count=1)
    chains = json.loads(json.dumps(sample.row()))["augmix"]["chains"]
    assert len(chains) == 3 and all(isinstance(op, str) for chain in chains for op in chain["op"])
    console = Console(file=io.StringIO(), width=80)
    print_samples([sample], console)
    assert "AugMix's chains" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_picture_holds_each_tile_unchanged(shown: list[Sample]) -> None:
    for originals in (False, True):
        picture = np.asarray(draw_grid(shown[:5], "a title", originals=originals))
        for sample in shown[:2]:
            scaled = sample.pixels.repeat(14, axis=0).repeat(14, axis=1)  # 32 px become 448
            assert holds(picture, scaled)


def holds(picture: np.ndarray, tile: np.ndarray) -> bool:
    """Whether a tile lies somewhere in a picture."""
    size = len(tile)
    corner = (picture[: 1 - size, : 1 - size] == tile[0, 0]).all(axis=2)
    far = (picture[size - 1 :, size - 1 :] == tile[-1, -1]).all(axis=2)
    return any(
        np.array_equal(picture[y : y + size, x : x + size], tile)
        for y, x in zip(*np.nonzero(corner & far), strict=True)
    )


def test_the_original_shows_the_window_that_was_cut(shown: list[Sample]) -> None:
    picture = np.asarray(draw_grid(shown[:1], "t", originals=True))
    marked = (picture == (0xE4, 0x57, 0x2E)).all(axis=2)
    ys, xs = np.nonzero(marked)
    _, _, height, width = shown[0].numbers["crops"]["window"]
    # A stored pixel of 32 takes 14 of the tile's.
    assert ys.max() - ys.min() + 1 == pytest.approx(height * 14, abs=4)
    assert xs.max() - xs.min() + 1 == pytest.approx(width * 14, abs=4)


def test_two_images_of_one_class_are_mixed_to_that_class(shown: list[Sample]) -> None:
    mixed = next(sample for sample in shown if sample.partner is not None)
    position, partner = mixed.partner  # type: ignore[misc]
    other = replace(partner, class_name="other")
    own = f"{mixed.numbers['mix']['lam']:.0%}"
    assert caption(replace(mixed, partner=(position, other)))[0].startswith(
        f"{mixed.source.title} {own} + other "
    )
    same = replace(partner, class_name=mixed.source.class_name)
    assert caption(replace(mixed, partner=(position, same)))[0] == mixed.source.title


def test_a_damaged_file_is_shown_as_left_out(tiny: Recipe, digits: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(digits / "val", root / "val")
    path = sorted((root / "val" / "eight").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-40])
    (sample,) = take_samples(root, "val", tiny, 0, position=0, count=1)
    assert sample.problem is not None and str(path) in sample.problem
    assert set(sample.pixels.ravel()) == {128}
    draw_grid([sample], "t", originals=True)


def test_positions_end_with_the_last_whole_group(tiny: Recipe, index: Index, digits: Path) -> None:
    with pytest.raises(DataError) as caught:
        take_samples(digits, "train", tiny, 0, position=1400, count=10)
    assert str(caught.value) == (
        f"{index.folder}: holds 1437 images, 1408 in whole mixing groups of 64, so positions end "
        "at 1407; 1400 to 1409 were asked for"
    )


def test_the_table_names_operations_and_the_partner(shown: list[Sample]) -> None:
    console = Console(file=io.StringIO(), width=80)
    print_samples(shown[:2], console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("mixed with", "cut out", "resized to", "operations", "erased"):
        assert words in printed
    assert not re.search(r"\b(crops|ops|boxes|mix)\.", printed)  # internal names
    for sample in shown[:2]:
        assert sample.partner is not None
        assert f"{sample.partner[0]}: {sample.partner[1].class_name}" in printed
        for op in sample.numbers["ops"]["op"]:
            assert op == "identity" or all(word in printed for word in op.split("_"))
    assert "…" not in printed


def test_the_command_takes_a_runs_recipe_and_writes_picture_and_numbers(
    tiny: Recipe,
    digits: Path,
    tmp_path: Path,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(dump_recipe(tiny))
    png, numbers = tmp_path / "a" / "grid.png", tmp_path / "grid.json"
    common = (str(digits), "--recipe", str(folder))
    shown = ("--epoch", "2", "--position", "60", "--grid", "6", "--original", "--out", str(png))
    assert ixt_status("data", "show", *common, *shown, "--results", str(numbers)) == 0
    with Image.open(png) as image:
        assert image.format == "PNG"
    rows = json.loads(numbers.read_text())
    assert [row["position"] for row in rows] == list(range(60, 66))
    assert {row["epoch"] for row in rows} == {2}
    assert rows[0]["partner"]["position"] == 63 - 60
    capsys.readouterr()
    photo = tmp_path / "photo.jpeg"
    photo.write_bytes(b"mine")
    assert ixt_status("data", "show", *common, "--out", str(photo)) == 2
    assert "pictures are PNG files" in capsys.readouterr().err
    assert photo.read_bytes() == b"mine"
    assert ixt_status("data", "show", *common, "--original") == 2
    assert "add --out" in capsys.readouterr().err
    assert ixt_status("data", "show", *common, "--split", "val", "--epoch", "1") == 2
    assert "--epoch has no effect" in capsys.readouterr().err
    assert ixt_status("data", "show", *common, "--split", "val", "--count", "2") == 0
    assert "cut out" in capsys.readouterr().out
