from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ixt.evaluate.accuracy import accuracy
from ixt.evaluate.inference import Contender, examine, take_records
from ixt.evaluate.records import Records, fill, gather, new_table, record_rows
from ixt.images.index import load_index, target_labels
from ixt.pipeline.augment.normalise import normalise
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.eval_loader import EvalLoader, View
from ixt.recipe import Recipe

CPU = torch.device("cpu")


class Linear(nn.Module):
    """Logits that depend on the image alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3 * 32 * 32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


def loader(recipe: Recipe, digits: Path, rank: int = 0, world_size: int = 1) -> EvalLoader:
    index = load_index(digits, "val")
    decoder: Any = make_decoder("torch", device=CPU, num_threads=1, prefetch=2, on_error="stop")
    labels = target_labels(index, index.classes)
    return EvalLoader(index, labels, decoder, recipe, device=CPU, rank=rank, world_size=world_size)


def with_batch(recipe: Recipe, size: int) -> Recipe:
    return recipe.with_(eval={"batch_size": size})


def test_counts_are_those_of_a_plain_loop(tiny: Recipe, digits: Path) -> None:
    model = Linear()
    correct, losses = np.zeros(2), []
    for batch in loader(tiny, digits):
        for logits, label in zip(model(batch.images), batch.labels, strict=True):
            ranked = logits.argsort(descending=True)
            correct += [ranked[0] == label, label in ranked[:5]]
            losses.append(-logits.log_softmax(0)[label].item())
    batches = loader(tiny, digits)
    found = accuracy(take_records(model, batches, CPU), batches.labels)
    assert [found.top1, found.top5] == pytest.approx(100 * correct / 360)
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert (found.count, found.skipped) == (360, 0)


def table_of(model: Linear, batches: EvalLoader) -> Tensor:
    table = new_table(360, CPU)
    for batch in batches:
        fill(table, batch.samples, record_rows(model(batch.images), batch.labels))
    return table


@pytest.mark.parametrize("world_size", [2, 3, 7])
@torch.no_grad()
def test_any_number_of_processes_gives_the_same_records(
    tiny: Recipe, digits: Path, world_size: int
) -> None:
    recipe, model = with_batch(tiny, 50), Linear().eval()
    alone = table_of(model, loader(recipe, digits))
    shares = [
        table_of(model, loader(recipe, digits, rank, world_size)) for rank in range(world_size)
    ]
    assert torch.equal(alone, torch.stack(shares).sum(0))


def test_an_image_evaluated_twice_or_not_at_all_is_an_error() -> None:
    for times in (0, 2):
        table = new_table(3, CPU)
        for rows, count in ((slice(0, 2), 1), (slice(2, 3), times)):
            labels = torch.zeros(rows.stop - rows.start, dtype=torch.int64)
            for _ in range(count):
                fill(
                    table,
                    np.arange(rows.start, rows.stop),
                    record_rows(torch.eye(3)[: len(labels)], labels),
                )
        with pytest.raises(AssertionError, match=f"image 2 was evaluated {times} times"):
            gather(table)


def rows_of(logits: list[list[float]], labels: list[Any], **kwargs: Any) -> Records:
    table = new_table(len(logits), CPU)
    rows = record_rows(torch.tensor(logits), torch.tensor(labels), **kwargs)
    fill(table, np.arange(len(logits)), rows)
    return gather(table)


def test_a_loss_of_several_right_labels_is_that_of_their_joint_probability() -> None:
    probabilities = [0.5, 0.3, 0.2]
    logits = [np.log(probabilities).tolist()] * 3
    records = rows_of(logits, [[1, 2], [1, -1], [-1, -1]], readable=torch.tensor([True] * 3))
    assert records.loss == pytest.approx([-np.log(0.5), -np.log(0.3), 0], rel=1e-6)
    assert records.confidence == pytest.approx([0.5] * 3)
    assert records.top.tolist() == [[0, 1, 2, -1, -1]] * 3


def test_outputs_that_do_not_compete_are_neither_predicted_nor_in_the_loss() -> None:
    competing = torch.tensor([False, True, True])
    records = rows_of([np.log([0.5, 0.3, 0.2]).tolist()], [1], competing=competing)
    assert records.top[0, 0] == 1
    assert records.loss == pytest.approx([-np.log(0.6)])
    assert records.confidence == pytest.approx([0.6])


@pytest.mark.parametrize("kind", ["torch", "dali", "exact"])
def test_one_pass_of_several_views_equals_passes_of_their_own(
    tiny: Recipe, digits: Path, kind: str
) -> None:
    model = Linear().eval()
    views = [View(32, 1.0), View(32, 0.8), View(32, 0.9, "squash", "bilinear")]
    index = load_index(digits, "val")
    labels = target_labels(index, index.classes)

    def records(chosen: list[View]) -> list[Records]:
        chosen_kind: Any = kind
        decoder = make_decoder(chosen_kind, device=CPU, num_threads=1, prefetch=2, on_error="stop")
        parts: Any = {"device": CPU, "rank": 0, "world_size": 1, "views": chosen}
        batches = EvalLoader(index, np.zeros(360, np.int64), decoder, tiny, **parts)
        contenders = [
            Contender(model, tiny, n, False, torch.tensor(labels)[:, None], None)
            for n in range(len(chosen))
        ]
        return examine(contenders, batches, CPU)

    together = records(views)
    for view, joint in zip(views, together, strict=True):
        (single,) = records([view])
        assert np.array_equal(joint.top, single.top)
        assert np.array_equal(joint.loss, single.loss)
    assert not np.array_equal(together[0].loss, together[1].loss)


def test_images_are_normalised_once_and_only_where_they_are_wanted(
    tiny: Recipe, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(images: Tensor, *rest: Any) -> Tensor:
        calls.append(len(images))
        return normalise(images, *rest)

    monkeypatch.setattr("ixt.pipeline.eval_loader.normalise", counted)
    for batch in loader(tiny, digits):
        assert calls == []
        assert batch.images is batch.images
        assert calls == [len(batch.pixels[0])]
        calls.clear()


def test_evaluation_leaves_the_training_mode_as_it_was(tiny: Recipe, digits: Path) -> None:
    model = Linear().train()
    take_records(model, loader(tiny, digits), CPU)
    assert model.training
