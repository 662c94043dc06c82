"""Evaluation: exact results of models on a split, the same on any number of processes.

    from ixt.evaluate import evaluate, take_records
from ixt.evaluate.records import Records

`inference` runs models over the images, `records` holds what they made of each, `accuracy` sums
that up; `evaluation` is `ixt eval`.
"""

from ixt.evaluate.accuracy import Accuracy, accuracy
from ixt.evaluate.inference import evaluate, take_records
from ixt.evaluate.records import Records

__all__ = ["Accuracy", "Records", "accuracy", "evaluate", "take_records"]
