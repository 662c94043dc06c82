"""`ixt predict`: what images show, where the model looked, as words, numbers and pictures."""

from ixt.predict.album import Album
from ixt.predict.classifier import Classifier, open_classifier
from ixt.predict.inputs import ImageFile, open_inputs
from ixt.predict.run import Guess, Outcome, predict
from ixt.predict.show import print_csv, print_json, print_table

__all__ = [
    "Album",
    "Classifier",
    "Guess",
    "ImageFile",
    "Outcome",
    "open_classifier",
    "open_inputs",
    "predict",
    "print_csv",
    "print_json",
    "print_table",
]
