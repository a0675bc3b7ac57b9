"""What a benchmark leaves: a page on the terminal and as files, with its figures as JSON beside it."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from fastgen.report.outcome import finish, machine
from fastgen.report.page import Page
from pipelines.durable import write_atomically

_PACKAGES = ("torch", "torchvision", "timm", "accelerate", "ffcv", "nvidia-dali-cuda130", "webdataset", "pillow")


def conclude(page: Page, path: Path, command: str, figures: dict[str, Any]) -> None:
    """Show the page, and write it to PATH.html and .md and the figures to PATH.json, with the machine and versions.

    figures: "failed", why each that failed did, among them. Raises SystemExit(1) where something failed.
    """
    page.code(command)
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = {name: found for name in _PACKAGES if (found := _version(name))}
    described = {"command": command, "machine": machine(), "versions": versions, **figures}
    write_atomically(path.with_suffix(".json"), json.dumps(described, indent=1) + "\n")
    finish(page, path.with_suffix(".html"))
    if figures["failed"]:
        raise SystemExit(1)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
