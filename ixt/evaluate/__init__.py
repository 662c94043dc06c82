"""Evaluation: exact results of models on a split, the same on any number of processes.

    from ixt.evaluate import evaluate

`records` says what a model made of each image, `accuracy` sums that up, `examine` runs models over
the images; `evaluation` is `ixt eval`.
"""

from ixt.evaluate.accuracy import Accuracy
from ixt.evaluate.examine import evaluate

__all__ = ["Accuracy", "evaluate"]
