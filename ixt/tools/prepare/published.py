"""The archives of the 2012 challenge as their publishers describe them."""

from __future__ import annotations

from dataclasses import dataclass

from ixt.images.folders import Split


@dataclass(frozen=True)
class Archive:
    """One published file."""

    name: str
    md5: str
    num_bytes: int | None = None
    """Its size, if known: a cut-off download is then found before anything is read."""


@dataclass(frozen=True)
class ArchiveSet:
    """A classification set in tars: one of class tars, one of numbered images, and their key."""

    train: Archive
    val: Archive
    devkit: Archive
    num_train: int
    num_val: int
    num_classes: int

    def archive(self, split: Split) -> Archive:
        """The tar of a split."""
        return self.train if split == "train" else self.val

    def num_images(self, split: Split) -> int:
        """Images of a split."""
        return self.num_train if split == "train" else self.num_val


ILSVRC2012 = ArchiveSet(
    train=Archive("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e", 147_897_477_120),
    val=Archive("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622", 6_744_924_160),
    devkit=Archive("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf"),
    num_train=1_281_167,
    num_val=50_000,
    num_classes=1_000,
)
"""ImageNet-1k. Sums: torchvision's ARCHIVE_META; sizes: image-net.org's Content-Length; counts:
Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge", table 2."""
