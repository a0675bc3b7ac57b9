"""What a benchmark leaves: a page on the terminal and as files, with its figures as JSON beside it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastgen.bench.subprocesses import values
from fastgen.report.outcome import finish
from fastgen.report.page import Page
from fastgen.report.plots import bars
from fastgen.runs.folder import PACKAGES
from fastgen.runs.machine import machine
from pipelines.durable import write_atomically
from pipelines.provenance import made_by

Table = tuple[list[str], list[list[str]]]  # header and rows


def write_figures(path: Path, command: str, figures: dict[str, Any]) -> None:
    """Write figures as JSON, with the command, the machine and the versions that they were measured with."""
    versions = made_by(*PACKAGES, "torchvision", "webdataset", "pillow")
    described = {"command": command, "machine": machine(), "made_by": versions, **figures}
    write_atomically(path, json.dumps(described, indent=1) + "\n")


def conclude(
    path: Path,
    title: str,
    table: Table,
    notes: Iterable[str],
    command: str,
    figures: dict[str, Any],
    chart: str | None = None,
) -> None:
    """Show a page, and write it to PATH.html and .md and the figures to PATH.json.

    figures: among them "measured" and "failed", as `in_turn` returns them. chart: the caption of a chart of all
    measured rates. Raises SystemExit(1) where something failed.
    """
    page = Page(title)
    page.table(*table)
    for note in notes:
        page.text(note)
    if chart and figures["measured"]:
        rates = {name: values(measured, "images_per_second") for name, measured in figures["measured"].items()}
        page.figure(path.name, bars(rates, "images/s"), f"{chart}: median, lowest and highest")
    page.code(command)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figures(path.with_suffix(".json"), command, figures)
    finish(page, path.with_suffix(".html"))
    if figures["failed"]:
        raise SystemExit(1)
