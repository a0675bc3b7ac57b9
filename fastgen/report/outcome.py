"""Showing a finished page: on the terminal, and as files."""

import os
import platform
from pathlib import Path

import torch
from rich.table import Table

from fastgen.report.page import Page
from fastgen.terminal import console
from pipelines.provenance import in_words


def finish(page: Page, path: Path) -> None:
    """Print the page's tables and texts, machine and commit among them, and write it to PATH.html."""
    page.text(f"{machine()}; {in_words()}.")
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


def machine() -> str:
    """The machine that measures, in words."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = len(os.sched_getaffinity(0))
    return (
        f"{platform.machine()}, {cores} cores, {device}, Python {platform.python_version()}, torch {torch.__version__}"
    )
