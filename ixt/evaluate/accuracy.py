"""Records summed up: accuracies with intervals, calibration, classes, confusions, comparisons.

Counts are of images that are readable and have a label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ixt.evaluate.records import Records

NUM_BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017."""


@dataclass(frozen=True)
class Accuracy:
    """Results over all images of a split."""

    top1: float
    """Percent of images whose label has the highest logit."""
    top5: float
    """Percent of images whose label is among the five highest logits (or all, if fewer)."""
    loss: float
    """Mean cross entropy against the hard label."""
    count: int
    skipped: int
    """Damaged images left out."""

    def row(self, prefix: str = "") -> dict[str, Any]:
        """The numbers under their names, for a log row."""
        return {prefix + key: value for key, value in asdict(self).items()}


def counted(records: Records, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) which images count: readable, with a label."""
    known: NDArray[np.bool_] = labels.reshape(len(labels), -1).max(axis=1) >= 0
    return records.readable & known


def hits(records: Records, labels: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """(n,) whether one of an image's labels is among its k highest logits.

    `labels` are (n,) or (n, m) output numbers, any of which is right; -1 for none. k is 1 to 5.
    """
    wanted = labels.reshape(len(labels), 1, -1)
    found = (records.top[:, :k, None] == wanted) & (wanted >= 0)
    right: NDArray[np.bool_] = found.any(axis=(1, 2))
    return right


def accuracy(records: Records, labels: NDArray[np.int64]) -> Accuracy:
    """Sum records up, in the order of the index."""
    counts = counted(records, labels)
    count = int(counts.sum())
    shares = [100 * int((hits(records, labels, k) & counts).sum()) / max(1, count) for k in (1, 5)]
    return Accuracy(
        top1=shares[0],
        top5=shares[1],
        loss=float(records.loss[counts].sum()) / max(1, count),
        count=count,
        skipped=int((~records.readable).sum()),
    )


def metrics_row(records: Records, labels: NDArray[np.int64], prefix: str = "") -> dict[str, Any]:
    """What a log row says of an evaluation: accuracies, and mAP where images have several labels.

    `labels` are as for `hits`.
    """
    row = accuracy(records, labels).row(prefix)
    if records.scores is not None:
        row[f"{prefix}map"] = mean_average_precision(records, labels)
    return row


def mean_average_precision(records: Records, labels: NDArray[np.int64]) -> float:
    """Mean of `average_precisions`, in percent; 0 where no class has an image."""
    found = average_precisions(records, labels)
    return 100 * float(np.mean([precision for _, _, precision in found])) if found else 0.0


def average_precisions(records: Records, labels: NDArray[np.int64]) -> list[tuple[int, int, float]]:
    """Output, images and average precision, in [0, 1], of each class that has images, in order.

    `labels` are (n, k): the right outputs of each image, -1 beyond its last. Records have scores.

    Source: scikit-learn's average_precision_score.
    """
    from sklearn.metrics import average_precision_score

    assert records.scores is not None
    counts = counted(records, labels)
    scores, labels = np.nan_to_num(records.scores[counts]), labels[counts]
    right = np.zeros((len(scores), scores.shape[1] + 1), np.bool_)
    np.put_along_axis(right, labels, True, axis=1)  # -1 is the column behind the last
    right = right[:, :-1]
    present = np.flatnonzero(right.any(axis=0))
    return [
        (
            int(output),
            int(right[:, output].sum()),
            float(average_precision_score(right[:, output], scores[:, output])),
        )
        for output in present
    ]


def wilson_interval(num_hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, in percent.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    from scipy.stats import binomtest  # takes a second, which training need not wait for

    if not count:
        return 0.0, 100.0
    interval = binomtest(num_hits, count).proportion_ci(0.95, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over 15 equal bins.

    Args:
        confidence: (n,) probability of the predicted class.
        right: (n,) whether that class is right.

    Returns:
        in [0, 1]; 0 for no images.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3; a bin holds
        its upper edge.
    """
    if not len(confidence):
        return 0.0
    surplus = np.bincount(_bins(confidence), weights=confidence - right, minlength=NUM_BINS)
    return float(np.abs(surplus).sum() / len(confidence))


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in one bin of the calibration error."""

    count: int
    confidence: float
    """Their mean confidence, in [0, 1]; 0 without images."""
    accuracy: float
    """The share of them that is right, in [0, 1]; 0 without images."""


def calibration_bins(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> list[Bin]:
    """The 15 bins of `calibration_error`, from low to high confidence: a reliability diagram."""
    bins = _bins(confidence)
    counts = np.bincount(bins, minlength=NUM_BINS)
    sums = [np.bincount(bins, weights=w, minlength=NUM_BINS) for w in (confidence, right)]
    means = [total / np.maximum(1, counts) for total in sums]
    return [Bin(int(n), float(c), float(a)) for n, c, a in zip(counts, *means, strict=True)]


def _bins(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    numbers = np.ceil(confidence * NUM_BINS).astype(np.int64) - 1
    return np.clip(numbers, 0, NUM_BINS - 1)


def class_results(records: Records, labels: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """Output, count, top1 and top5 (percent) of each class that has images, in that order.

    `most_predicted_instead` is the wrong output that was predicted most often; None where all is
    right.

    `labels` is (n,): one label per image, -1 for none.
    """
    rows = np.flatnonzero(counted(records, labels))
    right1, right5 = hits(records, labels, 1), hits(records, labels, 5)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    outputs, firsts = np.unique(labels[rows], return_index=True)
    # Without any class there is still one, empty, part.
    for output, of_class in zip(outputs.tolist(), np.split(rows, firsts[1:]), strict=False):
        wrong = records.top[of_class[~right1[of_class]], 0]
        yield {
            "output": output,
            "count": len(of_class),
            "top1": 100 * float(right1[of_class].mean()),
            "top5": 100 * float(right5[of_class].mean()),
            "most_predicted_instead": int(np.bincount(wrong).argmax()) if len(wrong) else None,
        }


def confusions(records: Records, labels: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(label, prediction, images) of wrong predictions, the most frequent first.

    `labels` is (n,): one label per image, -1 for none.
    """
    wrong = counted(records, labels) & ~hits(records, labels, 1)
    pairs = np.stack([labels[wrong], records.top[wrong, 0]], axis=1)
    unique, numbers = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-numbers, kind="stable")
    return [(*map(int, unique[n]), int(numbers[n])) for n in order]  # type: ignore[misc]


@dataclass(frozen=True)
class McNemar:
    """The exact paired test of two models' top-1 predictions."""

    only_first: int
    only_second: int
    p: float
    """Two-sided probability of so unequal a split, were both models equally good."""


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """Compare which images two models have right.

    Both are (n,): whether that model's prediction of an image is right.

    Source: McNemar 1947; the exact form is the binomial test of the images on which they differ.
    """
    from scipy.stats import binomtest

    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    different = only_first + only_second
    p = float(binomtest(only_first, different).pvalue) if different else 1.0
    return McNemar(only_first, only_second, p)


def verdict(first: str, second: str, test: McNemar, alpha: float = 0.05) -> str:
    """A test in one sentence.

    Below `alpha` the difference is called one.
    """
    numbers = (
        f"p = {test.p:.3g}; only {first} right: {test.only_first}, "
        f"only {second}: {test.only_second}"
    )
    if test.p >= alpha:
        return f"{first} and {second} do not differ by more than chance ({numbers})"
    better, worse = (first, second) if test.only_first > test.only_second else (second, first)
    return f"{better} is better than {worse} ({numbers})"
