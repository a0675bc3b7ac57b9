"""Showing a finished page: on the terminal, and as files."""

from pathlib import Path

from rich.table import Table

from fastgen.report.page import Page
from fastgen.runs.machine import machine
from fastgen.terminal import console
from pipelines.provenance import in_words


def finish(page: Page, path: Path) -> None:
    """Print the page's tables and texts, machine and commit among them, and write it to PATH.html."""
    page.text(f"This page: {machine()}; {in_words()}.")
    screen = console()
    for header, rows in page.tables:
        table = Table(*header, title=page.title)
        for row in rows:
            table.add_row(*row)
        screen.print(table)
    for text in page.texts:
        screen.print(text)
    page.write(path)
    print(f"{path}, .md and figures in {path.stem}_files")
