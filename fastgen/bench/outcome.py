"""What a benchmark leaves: a page on the terminal and as files, with its figures as JSON beside it."""

import json
from pathlib import Path
from typing import Any

from fastgen.paper.page import Page
from fastgen.paper.shown import finish
from fastgen.training.rundir import write_atomically


def conclude(page: Page, path: Path, command: str, figures: dict[str, Any]) -> None:
    """Show the page, and write it to PATH.html and .md and the figures to PATH.json. figures: "failed", why each that
    failed did, among them. Raises SystemExit(1) where something failed."""
    page.code(command)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path.with_suffix(".json"), json.dumps({"command": command, **figures}, indent=1) + "\n")
    finish(page, path.with_suffix(".html"))
    if figures["failed"]:
        raise SystemExit(1)
