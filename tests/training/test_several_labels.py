"""Images with several labels: their sets, targets and average precision, and runs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tar_sets
import torch
from run_files import rows, stop_after
from same_index import refused
from sklearn.metrics import average_precision_score

from ixt.checkpoint.folder import checkpoint_folders, read_checkpoint
from ixt.errors import DataError, Interrupted
from ixt.evaluate.accuracy import mean_average_precision, metrics_row
from ixt.evaluate.candidates import Source
from ixt.evaluate.evaluation import Settings, run_evaluation
from ixt.evaluate.inference import take_records
from ixt.evaluate.records import Records, fill, gather, new_table, record_rows
from ixt.evaluate.targets import find_targets
from ixt.images.index import Index, load_index
from ixt.images.label_sets import has_sets, label_columns, label_sets, single_classes
from ixt.pipeline.augment.mixing import mix_targets, smooth_targets
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.eval_loader import EvalLoader
from ixt.pipeline.from_recipe import refuse_unfit_sets
from ixt.pipeline.plan.mixing import MixTable
from ixt.recipe import Recipe, parse_recipe
from ixt.runs.image_set import look_at
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack
from ixt.tools.show.from_loaders import take_samples
from ixt.training.loop import train

CPU = torch.device("cpu")
MORE = {"zero": "even;round", "one": "odd", "two": "even", "three": "odd;round", "eight": "round"}


@pytest.fixture(scope="module")
def listed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.csv and val.csv of the digits, some of which are called something else, too."""
    root = tmp_path_factory.mktemp("listed")
    for split in ("train", "val"):
        found = [
            (path, f"{name};{MORE[name]}" if name in MORE else name)
            for path, name in tar_sets.rows_of(digits, split)
        ]
        tar_sets.write_list(root / f"{split}.csv", found)
    return root


@pytest.fixture(scope="module")
def recipe(tiny_sections: dict[str, dict[str, Any]], listed: Path) -> Recipe:
    sections = {**tiny_sections, "data": {"root": str(listed), "num_threads": 1}}
    found = parse_recipe(sections)
    return found.with_(optim={"loss": "bce", "label_smoothing": 0.0})


def index_of(tmp_path: Path, labels: list[Any], header: str = "path,label") -> Index:
    (tmp_path / "images").mkdir(exist_ok=True)
    for number in range(len(labels)):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(b"x")
    found = [(f"images/{n}.jpg", *np.atleast_1d(label)) for n, label in enumerate(labels)]
    return load_index(tar_sets.write_list(tmp_path / "list.csv", found, header), "train")


def test_a_set_of_labels_is_a_class_whatever_their_order(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["dog;cat", "cat", "cat; dog", "ant"])
    assert index.classes == ("ant", "cat", "cat;dog")
    assert index.labels.tolist() == [0, 1, 2, 2]
    assert has_sets(index) and single_classes(index) == ("ant", "cat", "dog")
    sets = label_sets(index, ("ant", "bee", "cat", "dog"))
    assert sets.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert label_columns(sets, index.labels).tolist() == [[0, -1], [2, -1], [2, 3], [2, 3]]
    with pytest.raises(DataError, match=r"1 of its classes are not among the model's 2 \(dog\)"):
        label_sets(index, ("ant", "cat"))


def test_sets_of_numbers_keep_the_meaning_of_each_number(tmp_path: Path) -> None:
    assert single_classes(index_of(tmp_path, ["0;2", "1"])) == ("00000", "00001", "00002")
    named = index_of(tmp_path, [["1;0", "dog;cat"], ["0", "cat"]], "path,label,class")
    assert named.classes == ("cat", "cat;dog")
    (tmp_path / "a.jsonl").write_text('{"path": "images/0.jpg", "label": ["b", "a"]}\n')
    assert load_index(tmp_path / "a.jsonl", "train").classes == ("a;b",)
    assert not has_sets(index_of(tmp_path, ["a", "b"]))


@pytest.mark.parametrize(
    ("header", "row", "problem"),
    [
        ("path,label", "a.jpg,cat;cat", "list.csv:2: gives a label twice; correct the row"),
        ("path,label", "a.jpg,cat;", "list.csv:2: has no label"),
        ("path,label", "a.jpg,0;-1", "list.csv:2: its label is -1; numbers go from 0 to"),
        ("path,label,class", "a.jpg,0;1,cat", "list.csv:2: gives 2 labels and 1 classes; give as"),
        ("path,label", "a.jpg,0;cat", "its label gives no class number, but those of other images"),
    ],
)
def test_sets_that_cannot_be_right_are_refused(
    tmp_path: Path, header: str, row: str, problem: str
) -> None:
    (tmp_path / "list.csv").write_text(f"{header}\n{row}\n")
    assert problem in refused(tmp_path / "list.csv")


def test_targets_of_sets_are_mixed_and_smoothed_as_those_of_classes_are() -> None:
    sets = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]], dtype=torch.bool)
    labels = torch.tensor([2, 0, -1, 1])
    for smoothing in (0.0, 0.1):
        found = smooth_targets(labels, 3, smoothing, sets)
        assert torch.equal(found, smooth_targets(labels, 3, smoothing))
    table = MixTable(np.array([0.75]), np.array([False]), np.zeros((1, 4), np.int32))
    mixed = mix_targets(torch.tensor([3, 1, 2, -1]), 3, 0.0, table, 4, sets)
    assert mixed.tolist() == [[0.75, 0, 0.75], [0, 0.75, 0.25], [0, 0.25, 0.75], [0.25, 0, 0.25]]


def scored(scores: list[list[float]], labels: list[list[int]]) -> Records:
    table = new_table(len(scores), CPU, len(scores[0]))
    logits = torch.tensor(scores)
    rows = record_rows(logits, torch.tensor(labels), num_scores=logits.shape[1])
    fill(table, np.arange(len(scores)), rows)
    return gather(table)


def test_average_precision_is_the_mean_over_classes_worked_out_by_hand() -> None:
    # The class 0 is right in ranks 1 and 3: (1 + 2/3) / 2; 1 in rank 2: 1/2; 2 in none, left out.
    labels = [[0, -1], [1, -1], [0, -1], [-1, -1]]
    records = scored([[3, 9, 0], [2, 5, 1], [1, 4, 2], [9, 9, 9]], labels)
    expected = 100 * ((1 + 2 / 3) / 2 + 1 / 2) / 2
    assert mean_average_precision(records, np.array(labels)) == pytest.approx(expected)
    both = metrics_row(records, np.array(labels), "ema_")
    assert both["ema_map"] == pytest.approx(expected) and both["ema_count"] == 3


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_processes_gives_the_same_average_precision(
    recipe: Recipe, listed: Path, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 13))
    index = load_index(listed, "val")
    labels = label_columns(label_sets(index, single_classes(index)), index.labels)
    monkeypatch.setattr("ixt.evaluate.inference.gather", lambda table: table)

    def share(rank: int, count: int) -> Any:
        decoder: Any = make_decoder("torch", device=CPU, num_threads=1, prefetch=2, on_error="stop")
        some = recipe.with_(eval={"batch_size": 50})
        who: Any = {"device": CPU, "rank": rank, "world_size": count, "num_scores": 13}
        return take_records(model, EvalLoader(index, labels, decoder, some, **who), CPU)

    together = sum(share(rank, world_size) for rank in range(world_size))
    assert torch.equal(together, share(0, 1))
    found = mean_average_precision(gather(together), labels)
    assert found == mean_average_precision(gather(share(0, 1)), labels) and 10 < found < 60


def test_a_run_learns_sets_and_its_score_is_their_average_precision(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    seen = []

    def keep(model: Any, loader: Any, device: torch.device) -> Records:
        seen.append((take_records(model, loader, device), loader.labels))
        return seen[-1][0]

    monkeypatch.setattr("ixt.training.loop.take_records", keep)
    plain = {"policy": None, "erase_prob": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0}
    small = {"global_batch_size": 32, "micro_batch_size": 32}
    longer = recipe.with_(augment=plain, engine=small, ema={"decay": None}, optim={"lr": 4e-3})
    train(longer, tmp_path)
    found = [row for row in rows(tmp_path, "metrics.jsonl") if row["kind"] == "epoch"]
    records, labels = seen[-1]
    assert records.scores is not None and records.scores.shape == (360, 13)
    right = (labels[:, :, None] == np.arange(13)).any(axis=1)
    assert found[-1]["map"] == 100 * average_precision_score(right, records.scores)
    assert found[-1]["map"] > 1.5 * 100 * right.mean()  # far above that of a constant
    newest = read_checkpoint(checkpoint_folders(tmp_path)[-1]).state
    assert newest["score"] == newest["metrics"]["map"] and len(newest["class_names"]) == 13
    assert f"mAP {newest['score']:.2f} after epoch 1" in capfd.readouterr().err
    (row,) = run_evaluation([Source(tmp_path)], None, Settings()).rows
    assert (row["map"], row["top1"]) == (found[-1]["map"], found[-1]["top1"])
    assert row["calibration_error"] is None


def test_a_stopped_run_on_sets_continues_to_the_same_bits(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(recipe, whole)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted, match="step 3"):
            train(recipe, cut)
    train(recipe, cut, resume=True)
    assert rows(cut, "ledger.jsonl") == rows(whole, "ledger.jsonl")
    one, other = (read_checkpoint(checkpoint_folders(run)[-1]).state for run in (whole, cut))
    assert one["metrics"] == other["metrics"]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"optim": {"loss": "cross_entropy"}}, "optim.loss: cross_entropy"),
        ({"optim": {"class_weights": "balanced"}}, "optim.class_weights"),
        ({"data": {"sampling": "balanced"}}, "data.sampling"),
        ({"data": {"shots": 5}}, "data.shots"),
        ({"teacher": {"checkpoint": "x"}}, "teacher"),
        ({"run": {"log_per_class": True}}, "run.log_per_class"),
    ],
)
def test_what_takes_one_label_for_each_image_is_refused(
    recipe: Recipe, listed: Path, settings: dict[str, Any], name: str
) -> None:
    index = load_index(listed, "train")
    with pytest.raises(DataError) as error:
        refuse_unfit_sets(recipe.with_(**settings), index)
    assert str(error.value) == (
        f"{listed}/train.csv: gives several labels to an image (eight;round), and {name} takes one "
        "for each; such lists are for training with optim.loss: bce, and for ixt eval"
    )


def test_shown_samples_have_the_targets_of_training(recipe: Recipe, listed: Path) -> None:
    plain = recipe.with_(augment={"mixup_alpha": 0.0, "cutmix_alpha": 0.0})
    for sample in take_samples(listed, "train", plain, epoch=0, position=0, count=40):
        right = sample.source.class_name.split(";")
        shown = sorted(sample.targets, key=lambda name: -sample.targets[name])[: len(right)]
        assert sorted(shown) == right and all(sample.targets[name] == 1.0 for name in right)
        assert sum(sample.targets.values()) == len(right)
    for sample in take_samples(listed, "val", plain, epoch=0, position=0, count=40):
        assert sample.targets == dict.fromkeys(sample.source.class_name.split(";"), 1.0)


def test_images_with_several_labels_do_not_judge_a_run_on_one_label(
    recipe: Recipe, digits: Path, listed: Path, tmp_path: Path
) -> None:
    tar_sets.write_list(tmp_path / "train.csv", tar_sets.rows_of(digits, "train"))
    (tmp_path / "val.csv").write_bytes((listed / "val.csv").read_bytes())
    with pytest.raises(DataError) as error:
        train(recipe.with_(data={"root": str(tmp_path)}), tmp_path / "run")
    assert str(error.value).startswith(
        f"{tmp_path}/val.csv: gives several labels to an image (eight;round), and a run whose "
        "training images have one takes one for each; "
    )


def test_commands_that_take_one_label_are_refused(listed: Path, tmp_path: Path) -> None:
    index = load_index(listed, "val")
    for name, call in (
        (
            "what --labels, --class-map or --compete chooses",
            lambda: find_targets(index, single_classes(index), source="folders"),
        ),
        ("ixt init", lambda: look_at(str(listed))),
        ("ixt data pack", lambda: pack(listed, tmp_path / "out", PackOptions())),
    ):
        with pytest.raises(DataError, match=rf"\(eight;round\), and {name} takes one for each"):
            call()
