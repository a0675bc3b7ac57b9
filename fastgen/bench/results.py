"""What a benchmark leaves: a page on the terminal and as files, with its figures as JSON beside it."""

import json
from pathlib import Path
from typing import Any

from fastgen.report.outcome import finish, machine
from fastgen.report.page import Page
from fastgen.runs.folder import PACKAGES
from pipelines.durable import write_atomically
from pipelines.provenance import made_by


def conclude(page: Page, path: Path, command: str, figures: dict[str, Any]) -> None:
    """Show the page, and write it to PATH.html and .md and the figures to PATH.json, with the machine and versions.

    figures: "failed", why each that failed did, among them. Raises SystemExit(1) where something failed.
    """
    page.code(command)
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = made_by(*PACKAGES, "torchvision", "webdataset", "pillow")
    described = {"command": command, "machine": machine(), "made_by": versions, **figures}
    write_atomically(path.with_suffix(".json"), json.dumps(described, indent=1) + "\n")
    finish(page, path.with_suffix(".html"))
    if figures["failed"]:
        raise SystemExit(1)
