"""`ixt bench`: training and inference throughput in both memory formats."""

from ixt.bench.export import csv_text, markdown_text
from ixt.bench.matrix import expand, largest_batch, run_cell, run_matrix
from ixt.bench.peers import print_peers
from ixt.bench.results import Cell, Protocol, Report, Row, read_report, write_report
from ixt.bench.table import print_table

__all__ = [
    "Cell",
    "Protocol",
    "Report",
    "Row",
    "csv_text",
    "expand",
    "largest_batch",
    "markdown_text",
    "print_peers",
    "print_table",
    "read_report",
    "run_cell",
    "run_matrix",
    "write_report",
]
