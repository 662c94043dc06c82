"""From the archives of ImageNet-1k to a folder that trains: `prepare` does it, `run` says how."""

from ixt.data.prepare.published import ILSVRC2012, Archive, ArchiveSet
from ixt.data.prepare.run import prepare
from ixt.data.prepare.task import Options, Sources, SplitSummary

__all__ = [
    "ILSVRC2012",
    "Archive",
    "ArchiveSet",
    "Options",
    "Sources",
    "SplitSummary",
    "prepare",
]
