"""From the archives of ImageNet-1k to a folder that trains: `prepare` does it, `task` says how."""

from ixt.tools.prepare.splits import prepare
from ixt.tools.prepare.task import ILSVRC2012, Archive, ArchiveSet, Options, Sources, SplitSummary

__all__ = [
    "ILSVRC2012",
    "Archive",
    "ArchiveSet",
    "Options",
    "Sources",
    "SplitSummary",
    "prepare",
]
