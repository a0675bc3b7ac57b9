"""Files that are whole or not there, and that are on the disk when a function returns, not on their way to it."""

import os
import shutil
from pathlib import Path
from typing import IO, Any

from pipelines.errors import UserError


def check_room(folder: Path, need: int, what: str, remedy: str) -> None:
    """Raises UserError where the disk of `folder` has less than `need` bytes free for `what`."""
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(f"{folder} has {free / 1e9:.1f} GB free and {what} needs about {need / 1e9:.1f}; {remedy}")


def sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def write_durably(path: Path, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        sync(file)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` last."""
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def aside(path: Path) -> Path:
    """Where `write_atomically` writes what will become `path`."""
    return path.with_name(f".{path.name}.tmp")


def write_atomically(path: Path, text: str) -> None:
    """Write aside and rename: a reader finds the old text or the new one."""
    aside(path).write_text(text)
    os.replace(aside(path), path)
