"""Pictures of predictions: many images with bars, and where the model looked."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ixt.errors import IxtError, ModelError
from ixt.images.classes import class_label
from ixt.predict.cam import Layer, find_layer, heat_maps, overlay, require_grad_cam
from ixt.predict.classifier import Classifier, probabilities
from ixt.predict.inputs import STDIN, ImageFile
from ixt.predict.predictions import Guess, Outcome
from ixt.tools.show.sample import denormalise
from ixt.tools.show.tiles import Tile, draw_pages, draw_tiles, enlarge, require_png, write_png

NUM_TILES = 60
"""Images that one picture holds at most."""


class Album:
    """Collects pictures of outcomes on their way to somebody else."""

    def __init__(
        self,
        classifier: Classifier,
        *,
        grid: Path | None = None,
        cam: Path | None = None,
        cam_class: str | None = None,
    ) -> None:
        """Settle what to draw.

        Args:
            classifier: that makes the outcomes.
            grid: PNG file for the images as the model gets them, with their most probable
                classes, the first 60 at most.
            cam: PNG file for the images beside where the model looked, the first 60 at most,
                numbered where they take several pages (`cam-1.png`, ...); or a folder for a file
                of each. Images in class folders say whether the model is right.
            cam_class: name, words or output number of the class to look for; None for each
                image's most probable one.

        Raises:
            IxtError: a file is not a PNG file, pytorch-grad-cam is missing, or the model has no
                such class.
        """
        self._classifier = classifier
        require_png("--grid", grid)
        # A name without a suffix is a folder's.
        require_png("--cam", cam if cam is not None and cam.suffix else None)
        self._grid, self._cam = grid, cam
        if cam_class is not None and cam is None:
            raise IxtError("--cam-class asks where the model looked; add --cam FILE.png")
        if cam is not None:
            require_grad_cam()
        names = classifier.class_names
        self._output = None if cam_class is None else find_output(names, cam_class)
        self._looked = "where it looked"
        if self._output is not None:
            self._looked += f" for {_first_word(class_label(names[self._output]))}"
        self._layer: Layer | None = None
        self._seen = 0
        self._grid_tiles: list[Tile] = []
        self._cam_tiles: list[Tile] = []
        self._written: list[Path] = []

    def watch(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        """Pass outcomes on, taking pictures of those that could be read."""
        for outcome in outcomes:
            if outcome.problem is None:
                self._take(outcome)
            yield outcome

    def save(self) -> list[Path]:
        """Write what has been collected; return all files written.

        Raises:
            IxtError: a file cannot be written.
        """
        title = _title(self._classifier, self._seen)
        if self._grid is not None and self._grid_tiles:
            self._write(self._grid, self._grid_tiles, title)
        if self._cam is not None and self._cam_tiles:
            self._write_pages(self._cam, self._cam_tiles, f"{self._looked} \u00b7 {title}")
        return self._written

    def _take(self, outcome: Outcome) -> None:
        self._seen += 1
        room = self._seen <= NUM_TILES
        if self._grid is not None and room:
            self._grid_tiles.append(_grid_tile(self._classifier, outcome))
        if self._cam is None:
            return
        if self._cam.suffix:
            if room:
                self._cam_tiles.append(self.tile_of(outcome))
        else:
            tile = self.tile_of(outcome)
            self._write(self._free_name(self._cam, outcome), [tile], _title(self._classifier, 1))

    def tile_of(self, outcome: Outcome) -> Tile:
        """An image beside where the model looked, and whether the model is right."""
        image, model = outcome.image, self._classifier.model
        assert image is not None
        if self._layer is None:
            self._layer = find_layer(model, image)
        guess = self._guess(outcome)
        (heat,) = heat_maps(model, self._layer, image[None], [guess.output])
        shown = enlarge(denormalise(image, self._classifier.recipe))
        return Tile(
            (shown, overlay(shown, heat)),
            tuple(filter(None, (_short(outcome), self._verdict(outcome)))),
            ((_words(guess), guess.probability),),
        )

    def _verdict(self, outcome: Outcome) -> str:
        """Whether the most probable class is right, and which it is where another was asked for."""
        best = outcome.guesses[0]
        asked = self._output is not None
        parts = [f"predicted {_words(best)} {best.probability:.1%}"] if asked else []
        true = true_class(outcome.file, self._classifier.class_names)
        if true is not None:
            right = best.name == true
            parts.append("right" if right else f"wrong: it is {_first_word(class_label(true))}")
        return ", ".join(parts)

    def _guess(self, outcome: Outcome) -> Guess:
        """The class to look for in this image."""
        output = outcome.guesses[0].output if self._output is None else self._output
        for guess in outcome.guesses:
            if guess.output == output:
                return guess
        assert outcome.image is not None
        shares = probabilities(self._classifier, outcome.image[None])[0]
        return Guess(output, self._classifier.class_names[output], float(shares[output]))

    def _free_name(self, folder: Path, outcome: Outcome) -> Path:
        name = outcome.file.name
        stem = "stdin" if name == STDIN else Path(name).stem
        path, number = folder / f"{stem}.png", 1
        while path in self._written:
            number += 1
            path = folder / f"{stem}-{number}.png"
        return path

    def _write_pages(self, path: Path, tiles: Sequence[Tile], title: str) -> None:
        """One file, or `cam-1.png`, `cam-2.png`, ... for `cam.png`."""
        pages = draw_pages(tiles, title)
        for number, page in enumerate(pages, 1):
            numbered = path.with_stem(f"{path.stem}-{number}") if len(pages) > 1 else path
            write_png(numbered, page)
            self._written.append(numbered)

    def _write(self, path: Path, tiles: Sequence[Tile], title: str) -> None:
        write_png(path, draw_tiles(tiles, title))
        self._written.append(path)


def find_output(class_names: Sequence[str], wanted: str) -> int:
    """The output number of a class by its name, one of its words, or the number itself.

    Raises:
        ModelError: there is no such class.
    """
    if wanted in class_names:
        return class_names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(class_names):
        return int(wanted)
    words: dict[str, int] = {}
    for output, name in enumerate(class_names):
        for word in class_label(name).lower().split(", "):
            words.setdefault(word, output)  # `crane` is a bird and a machine: the first one
    if wanted.lower() in words:
        return words[wanted.lower()]
    near = difflib.get_close_matches(wanted.lower(), words, n=3, cutoff=0.5)
    hint = (
        f"similar names: {', '.join(near)}" if near else f"give a number below {len(class_names)}"
    )
    raise ModelError(f"--cam-class: the model has no class {wanted}; {hint}")


def true_class(file: ImageFile, class_names: Sequence[str]) -> str | None:
    """The class of an image that lies in its class's folder; None where nothing tells it.

    Outputs that nobody named go by their number, which is no name of a folder.
    """
    if file.name == STDIN or list(class_names) == [str(n) for n in range(len(class_names))]:
        return None
    folder = Path(os.path.abspath(file.path)).parent.name
    return folder if folder in class_names else None


def _grid_tile(classifier: Classifier, outcome: Outcome) -> Tile:
    assert outcome.image is not None
    return Tile(
        (enlarge(denormalise(outcome.image, classifier.recipe)),),
        (_short(outcome),),
        tuple((_words(guess), guess.probability) for guess in outcome.guesses),
    )


def _title(classifier: Classifier, seen: int) -> str:
    shown = f"the first {NUM_TILES} of {seen:,} images" if seen > NUM_TILES else ""
    return f"{classifier.recipe.model.name}{f': {shown}' if shown else ''}"


def _short(outcome: Outcome) -> str:
    return "/".join(outcome.file.name.rsplit("/", 2)[-2:])


def _words(guess: Guess) -> str:
    return _first_word(guess.label)


def _first_word(label: str) -> str:
    """The first of a class's words."""
    return label.split(",")[0]
