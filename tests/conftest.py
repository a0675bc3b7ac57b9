"""Fixtures: a cache of baked sets per test session, the real data where FASTGEN_DATA has it, small sources."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("WANDB_SILENT", "true")
# FFCV's own writer forks, and TBB, numba's first choice, then hangs at the end of the process.
os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")


# Tests run beside each other on few cores. Threads that wait for each other busily are then many times slower than
# one, so each worker, and what it starts, keeps to a core of its own.
_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if _worker:
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A test must neither find nor leave anything in the user's cache. Processes that tests start inherit this.
    folder = tmp_path_factory.mktemp("cache")
    os.environ["FASTGEN_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """FASTGEN_DATA, or skip."""
    folder = os.environ.get("FASTGEN_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FASTGEN_DATA names no folder of raw data sets")
    return Path(folder)


def real(folder: Path, name: str) -> Path:
    """A data set below FASTGEN_DATA, or skip."""
    if not (folder / name).is_dir():
        pytest.skip(f"FASTGEN_DATA has no {name}")
    return folder / name


# These start many processes. They come first, so that the workers end together (make test keeps this order).
_LONG = (
    "test_nullcuda",
    "test_stopping",
    "test_processes",
    "test_ffcv",
    "test_sweep",
    "test_packaging",
    "test_train",
    "test_cli",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    items.sort(key=lambda item: _LONG.index(item.path.stem) if item.path.stem in _LONG else len(_LONG))
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no GPU"))
