"""What a call of `prepare` is asked to do, and what it says when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ixt.images.folders import Split
from ixt.tools.prepare.published import ArchiveSet

Transfer = Literal["link", "move", "copy"]

SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True)
class Sources:
    """Where images come from; a split without one is only sorted and counted where it lies."""

    train: Path | None = None
    """ILSVRC2012_img_train.tar."""
    val: Path | None = None
    """ILSVRC2012_img_val.tar."""
    devkit: Path | None = None
    """Labels of val; the shipped ones if None."""
    kaggle: Path | None = None
    """A folder that holds Kaggle's ILSVRC/Data/CLS-LOC, or that folder itself."""

    def tar(self, split: Split) -> Path | None:
        """The tar of a split."""
        return self.train if split == "train" else self.val


@dataclass(frozen=True)
class Options:
    """How to prepare."""

    verify: bool = True
    """Compare sizes and MD5 sums of the archives with the published ones."""
    subset: bool = False
    """Accept other counts than the published ones; the sums cannot fit then."""
    transfer: Transfer = "link"
    """How images come from Kaggle's folders."""
    delete_class_tars: bool = False
    """Remove a class tar that lay in train/ once its images are in place."""
    num_threads: int = 4

    @property
    def check_sums(self) -> bool:
        """Whether archives must be the published ones, byte for byte."""
        return self.verify and not self.subset


@dataclass(frozen=True)
class SplitSummary:
    """What OUT holds of a split."""

    folder: Path
    num_images: int
    num_classes: int
    num_written: int
    """Images that this call brought or sorted."""
    elapsed_s: float
    is_published: bool
    """Its counts are those of the published set."""
    md5: str | None
    """Sum of the tar it came from, if it was compared."""


@dataclass(frozen=True)
class Task:
    """A call of `prepare`."""

    root: Path
    sources: Sources
    options: Options
    published: ArchiveSet
    labels: tuple[str, ...]
