"""Where raw data and baked sets live."""

import os
from pathlib import Path


def cache_root() -> Path:
    """The folder of baked sets: `FASTGEN_CACHE`, or ~/.cache/fastgen."""
    return Path(os.environ.get("FASTGEN_CACHE") or Path.home() / ".cache" / "fastgen").expanduser()


def data_root() -> Path:
    """The folder of raw data sets: `FASTGEN_DATA`, or `data` inside the cache."""
    return Path(os.environ.get("FASTGEN_DATA") or cache_root() / "data").expanduser()
