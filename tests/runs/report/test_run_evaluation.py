from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from odd_runs import found, outcomes

from ixt.evaluate.accuracy import calibration_bins, calibration_error
from ixt.evaluate.records import Records, fill, new_table, record_rows
from ixt.runs.report.evaluation import ClassResult, Evaluation
from ixt.runs.report.tables import class_tables, matrix

NAMES = ("a", "b", "c")


def test_the_confusion_matrix_is_scikit_learn_s() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 3, 200), random.integers(0, 3, 200)
    evaluation = found(NAMES, labels, outcomes(predictions.tolist()))
    images = [[cell.images for cell in cells] for _, cells in matrix(evaluation)]
    assert images == metrics.confusion_matrix(labels, predictions).tolist()
    assert [row[place].right for place, (_, row) in enumerate(matrix(evaluation))] == [True] * 3
    assert sum(cell.share for _, row in matrix(evaluation) for cell in row) == pytest.approx(3)


def test_images_that_do_not_count_are_in_no_table() -> None:
    damaged = Records(*vars(outcomes([1, 1, 0])).values())
    damaged.readable[1] = False
    evaluation = found(NAMES, [0, 0, -1], damaged)
    assert (evaluation.count, evaluation.skipped) == (1, 1)
    assert evaluation.confusions == [(0, 1, 1)]
    assert [mistake.file for mistake in evaluation.mistakes] == ["/no/0.jpeg"]
    assert sum(part.count for part in evaluation.bins) == 1


def test_calibration_by_hand() -> None:
    # 15 bins: 0.5 lies in the eighth (7/15 to 8/15), 1.0 in the last.
    confidence = np.array([0.5, 0.5, 0.5, 0.5, 1.0])
    right = np.array([True, False, False, False, True])
    bins = calibration_bins(confidence, right)
    assert [(place, part.count) for place, part in enumerate(bins) if part.count] == [
        (7, 4),
        (14, 1),
    ]
    assert (bins[7].confidence, bins[7].accuracy) == (0.5, 0.25)
    assert (bins[14].confidence, bins[14].accuracy) == (1.0, 1.0)
    # Four of five images are 0.25 too sure.
    assert calibration_error(confidence, right) == pytest.approx(0.2)


def test_mistakes_are_the_most_confident_ones_first() -> None:
    sure = [0.9, 0.2, 0.99, 0.7, *[0.6] * 20]
    evaluation = found(NAMES, [0] * 24, outcomes([1, 1, 0, 2, *[1] * 20], sure))
    first = [(m.file, m.prediction, m.confidence) for m in evaluation.mistakes[:3]]
    assert first == [("/no/0.jpeg", 1, 0.9), ("/no/3.jpeg", 2, 0.7), ("/no/4.jpeg", 1, 0.6)]
    assert len(evaluation.mistakes) == 12
    assert all(mistake.picture is None for mistake in evaluation.mistakes)


def test_many_classes_give_the_largest_confusions_and_both_ends() -> None:
    names = [f"c{number}" for number in range(10_000)]
    labels = np.arange(10_000)
    predictions = labels.copy()
    predictions[:100] = 7
    evaluation = found(names, labels, outcomes(predictions.tolist()))
    assert matrix(evaluation) == []
    assert (len(evaluation.confusions), evaluation.num_confusions) == (30, 99)
    worst, best = class_tables(evaluation)
    assert [row.top1 for row in worst.rows if isinstance(row, ClassResult)] == [0.0] * 15
    assert [row.output for row in best.rows] == list(range(9999, 9984, -1))


def test_shares_of_two_ranks_together_give_the_evaluation_of_one() -> None:
    import torch

    labels = torch.arange(12) % 3
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    alone, together = (new_table(12, torch.device("cpu")) for _ in range(2))
    for first in range(0, 12, 4):
        samples = np.arange(first, first + 4)
        fill(alone, samples, record_rows(logits[first : first + 4], labels[first : first + 4]))
    for rank in range(2):  # what the sum over processes adds
        share = new_table(12, torch.device("cpu"))
        for first in range(4 * rank, 12, 8):
            samples = np.arange(first, first + 4)
            fill(share, samples, record_rows(logits[first : first + 4], labels[first : first + 4]))
        together += share
    from ixt.evaluate.records import gather

    one, two = (found(NAMES, labels.numpy(), gather(table)) for table in (alone, together))
    assert one == two and one.count == 12


def test_names_that_are_no_text_and_numbers_that_are_none_survive_the_file(tmp_path: Path) -> None:
    evaluation = found(["a\udcff", "b\nc"], [0, 1], outcomes([1, 1], [float("nan"), 0.5]))
    again = Evaluation.model_validate_json(evaluation.model_dump_json())
    assert again.class_names == ["a\\udcff", "b\nc"]
    assert np.isnan(again.mistakes[0].confidence)
