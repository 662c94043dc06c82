"""A benchmark as one HTML file with charts, complete in itself."""

from ixt.bench.page.entries import Source
from ixt.bench.page.page import page_html

__all__ = ["Source", "page_html"]
