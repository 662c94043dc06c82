"""Check an image folder: decode every file once, and say what is broken, odd or twice there."""

from ixt.tools.check.findings import MEANING, Finding, Kind
from ixt.tools.check.folder import CheckReport, check_folder
from ixt.tools.check.quarantine import restore
from ixt.tools.check.table import print_report

__all__ = [
    "MEANING",
    "CheckReport",
    "Finding",
    "Kind",
    "check_folder",
    "print_report",
    "restore",
]
