"""Check an image folder: decode every file once, and say what is broken, odd or twice there."""

from ixt.data.check.findings import MEANING, Finding, Kind
from ixt.data.check.quarantine import restore
from ixt.data.check.run import CheckReport, check_folder
from ixt.data.check.table import print_report

__all__ = [
    "MEANING",
    "CheckReport",
    "Finding",
    "Kind",
    "check_folder",
    "print_report",
    "restore",
]
