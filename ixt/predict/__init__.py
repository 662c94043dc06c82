"""`ixt predict`: what images show, where the model looked, as words, numbers and pictures."""

from ixt.predict.album import Album
from ixt.predict.classifier import Classifier, open_classifier
from ixt.predict.inputs import ImageFile, open_inputs
from ixt.predict.output import print_csv, print_json, print_table
from ixt.predict.predictions import Guess, Outcome, predict

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
