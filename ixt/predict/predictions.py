"""Predictions for image files, through the loader of the evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ixt.images.byte_ranges import ByteRange
from ixt.images.classes import class_label
from ixt.images.headers import Headers, read_headers
from ixt.images.image import image_problem
from ixt.images.index import Index
from ixt.images.index_table import join_paths
from ixt.pipeline.eval_loader import EvalBatch, EvalLoader
from ixt.pipeline.from_recipe import build_chosen_decoder
from ixt.predict.classifier import Classifier, probabilities
from ixt.predict.inputs import ImageFile


@dataclass(frozen=True)
class Guess:
    """A class and how probable the model holds it to be."""

    output: int
    name: str
    """Name of the class, such as its folder's or a WordNet id."""
    probability: float
    """Probability in [0, 1]; those of all classes sum to 1."""

    @property
    def label(self) -> str:
        """The class in human words."""
        return class_label(self.name)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one image."""

    file: ImageFile
    guesses: tuple[Guess, ...] = ()
    """The most probable first; empty where the image could not be read."""
    image: Tensor | None = None
    """(3, S, S) float32 on the device: what the model got; None where it could not be read."""
    problem: str | None = None
    """Why it could not be read, in one line that names it."""


def predict(
    classifier: Classifier, files: Sequence[ImageFile], *, top: int = 5
) -> Iterator[Outcome]:
    """Yield what the model makes of each image.

    All classes are given where the model has fewer than `top`.

    Yields:
        An outcome per image, in order, one batch after the other.
    """
    headers = read_headers(b"", [os.fsencode(file.path) for file in files])
    readable = np.flatnonzero(headers.sizes.all(axis=1))
    outcomes = _outcomes(
        classifier, [files[row] for row in readable.tolist()], headers, readable, top
    )
    for file, size in zip(files, headers.sizes, strict=True):
        yield next(outcomes) if size.all() else Outcome(file, problem=_first_look(file))


def _outcomes(
    classifier: Classifier,
    files: Sequence[ImageFile],
    headers: Headers,
    rows: NDArray[np.intp],
    top: int,
) -> Iterator[Outcome]:
    """The outcomes of files whose headers, at these rows, can be read."""
    if not files:
        return
    index = _index(files, headers, rows)
    for batch in _batches(classifier, index):
        first = batch.number * classifier.recipe.eval.batch_size
        guesses = _guesses(classifier, batch.images, top)
        for row, (image, label) in enumerate(zip(batch.images, batch.labels.tolist(), strict=True)):
            file = files[first + row]
            if label >= 0:
                yield Outcome(file, guesses[row], image)
            else:
                (path,) = index.paths([first + row])
                yield Outcome(file, problem=_named(batch.damaged[path], path, file))


def _index(files: Sequence[ImageFile], headers: Headers, rows: NDArray[np.intp]) -> Index:
    """A table of files that lie anywhere."""
    paths = [os.path.abspath(file.path) for file in files]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    blob, offsets = join_paths([os.fsencode(os.path.relpath(path, folder)) for path in paths])
    return Index(
        root=Path(folder),
        folder=Path(folder),
        classes=("",),
        labels=np.zeros(len(files), np.int32),
        sizes=headers.sizes[rows],
        num_bytes=headers.num_bytes[rows],
        formats=headers.formats[rows],
        path_blob=blob,
        path_offsets=offsets,
    )


def _batches(classifier: Classifier, index: Index) -> Iterator[EvalBatch]:
    """The images as the evaluation prepares them."""
    recipe, device = classifier.recipe, classifier.accelerator.device
    decoder = build_chosen_decoder(recipe, index, device, classifier.decoder)
    # Nobody knows the classes: 0 stands for any, -1 will show damage.
    labels = np.zeros(len(index), np.int64)
    with closing(decoder):
        yield from EvalLoader(index, labels, decoder, recipe, device=device, rank=0, world_size=1)


def _guesses(classifier: Classifier, images: Tensor, top: int) -> list[tuple[Guess, ...]]:
    names = classifier.class_names
    values, outputs = probabilities(classifier, images).topk(min(top, len(names)), dim=1)
    return [
        tuple(Guess(n, names[n], value) for n, value in zip(numbers, shares, strict=True))
        for numbers, shares in zip(outputs.tolist(), values.tolist(), strict=True)
    ]


def _first_look(file: ImageFile) -> str:
    """What is wrong with a file whose header cannot be read."""
    # Pillow would wait for somebody to write into a pipe.
    if os.path.exists(file.path) and not os.path.isfile(file.path):
        return f"{file.name}: is not a regular file; pipe an image to `-`"
    problem = image_problem(ByteRange(file.path)) or f"{file.path}: is not an image"
    return _named(problem, file.path, file)


def _named(problem: str, path: str, file: ImageFile) -> str:
    """The problem of a path with the file called as its user did."""
    return file.name + problem.removeprefix(path)
