"""What becomes of results files: tables for the terminal, CSV, Markdown and a page with charts."""
