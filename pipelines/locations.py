"""Where raw data and baked sets live, and where results go."""

import os
from pathlib import Path

from pipelines.errors import UserError


def cache_root() -> Path:
    """The folder of baked sets: `FASTGEN_CACHE`, or ~/.cache/fastgen."""
    return _named("FASTGEN_CACHE") or _in_home("FASTGEN_CACHE", "~/.cache/fastgen")


def data_root() -> Path:
    """The folder of raw data sets: `FASTGEN_DATA`, or `data` inside the cache."""
    return _named("FASTGEN_DATA") or cache_root() / "data"


def outputs_root() -> Path:
    """The folder of all that commands write, unless they are told another place: `FASTGEN_OUTPUT`, or ./fastgen_out."""
    return _named("FASTGEN_OUTPUT") or Path("fastgen_out")


def _named(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return _in_home(variable, value) if value else None


def _in_home(variable: str, path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # neither HOME nor the system's list of users says where it is
        raise UserError(f"{path}: {error}; set {variable} to a folder") from error
