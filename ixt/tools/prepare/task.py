"""What a call of `prepare` is asked to do and gives back: archives, sources, options, summary."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ixt.images.classes import validation_labels
from ixt.images.folders import Split
from ixt.images.progress_lines import Report

Progress = Callable[[str], AbstractContextManager[Report]]
"""Called with what is done; shows the megabytes that are reported meanwhile."""
Transfer = Literal["link", "move", "copy"]

SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True)
class Archive:
    """One published file."""

    name: str
    md5: str
    num_bytes: int | None = None
    """Its size, if known: a cut-off download is then found before anything is read."""


@dataclass(frozen=True)
class ArchiveSet:
    """A classification set in tars: one of class tars, one of numbered images."""

    train: Archive
    val: Archive
    num_train: int
    num_val: int
    num_classes: int
    labels: Callable[[], tuple[str, ...]] = validation_labels
    """Gives the classes of the validation images, by their numbers."""

    def archive(self, split: Split) -> Archive:
        """The tar of a split."""
        return self.train if split == "train" else self.val

    def num_images(self, split: Split) -> int:
        """Images of a split."""
        return self.num_train if split == "train" else self.num_val


ILSVRC2012 = ArchiveSet(
    train=Archive("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e", 147_897_477_120),
    val=Archive("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622", 6_744_924_160),
    num_train=1_281_167,
    num_val=50_000,
    num_classes=1_000,
)
"""ImageNet-1k. Sums: torchvision's ARCHIVE_META; sizes: image-net.org's Content-Length; counts:
Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge", table 2."""


@dataclass(frozen=True)
class Sources:
    """Where images come from; a split without one is only sorted and counted where it lies."""

    train: Path | None = None
    """ILSVRC2012_img_train.tar."""
    val: Path | None = None
    """ILSVRC2012_img_val.tar."""
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
    """Images that this call copied or sorted."""
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
    progress: Progress
