"""Evaluation: exact results of models on a split, the same on any number of processes.

    from ixt.evaluate import evaluate

`records` says what a model made of each image, `accuracy` sums that up; `command` is `ixt eval`.
"""

from ixt.evaluate.accuracy import Accuracy
from ixt.evaluate.records import evaluate

__all__ = ["Accuracy", "evaluate"]
