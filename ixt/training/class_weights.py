"""What an image of each class weighs in the loss, from the recipe and the training set."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ixt.errors import RecipeError
from ixt.images.index import Index, target_labels
from ixt.recipe import Optim


def class_weights(
    optim: Optim, index: Index, class_names: Sequence[str], device: torch.device
) -> Tensor | None:
    """The weight of each output, scaled so that the training set's mean is 1.

    The mean is that of its images' targets, label smoothing included. Mixing keeps it on average,
    as every image is as often the partner.

    Returns:
        (C,) float32; None where all classes weigh the same.

    Raises:
        RecipeError: a class is not there.

    Source of balanced: King & Zeng 2001, "Logistic Regression in Rare Events Data", as in
    scikit-learn's compute_class_weight.
    """
    if optim.class_weights is None:
        return None
    counts = np.bincount(target_labels(index, class_names), minlength=len(class_names))
    if optim.class_weights == "balanced":
        # An output without images keeps the mean weight; only smoothing gives it any.
        present = counts > 0
        weights = np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 1.0)
    else:
        _refuse_unknown(optim.class_weights, class_names)
        weights = np.array([optim.class_weights.get(name, 1.0) for name in class_names])
    smoothing = optim.label_smoothing
    shares = (1 - smoothing) * counts / counts.sum() + smoothing / len(counts)
    return torch.from_numpy(weights / (shares * weights).sum()).float().to(device)


def _refuse_unknown(given: dict[str, float], class_names: Sequence[str]) -> None:
    known = set(class_names)
    unknown = [name for name in given if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], class_names, n=3)
        hint = f"near ones: {', '.join(near)}" if near else f"there are {len(class_names)}"
        raise RecipeError(f"optim.class_weights.{unknown[0]}: the run has no such class; {hint}")
