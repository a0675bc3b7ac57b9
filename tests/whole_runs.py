"""What tests of whole runs share."""

import os
import signal
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from fastgen.runs.metrics import read_metrics
from fastgen.runs.summary import FINISHED, Summary
from fastgen.training.position import Position
from fastgen.training.watching import Watcher
from pipelines.backends import BACKENDS

ROOT = Path(__file__).resolve().parent.parent
# A small run that uses every kind of state: batch norm would need a convolution, so dropout and augmentation.
SMALL = [
    "data.source=synthetic", "data.synthetic.samples=100", "data.synthetic.test_samples=30", "data.synthetic.size=12",
    "data.image_size=10", "data.batch_size=30", "data.augment.random_crop=true", "data.augment.flip=true",
    "model.dropout=0.3", "schedule.kind=cosine", "train.epochs=4", "track.log_steps=1",
    "train.stop_at_interpolation=false", "run.keep_checkpoints=100",
]  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_accelerate(monkeypatch, tmp_path):
    """Accelerate keeps its state for the process; every test starts anew, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


class StopAfter(Watcher):
    """Sends this process a SIGTERM when training has done so many steps."""

    def __init__(self, step: int) -> None:
        self.last = step

    def step(self, position: Position) -> None:
        if position.step == self.last:
            os.kill(os.getpid(), signal.SIGTERM)


def weights(folder: Path, step: int | None = None) -> dict[str, torch.Tensor]:
    found = sorted((folder / "checkpoints").glob("step_*"))
    chosen = found[-1] if step is None else folder / "checkpoints" / f"step_{step:08d}"
    return load_file(chosen / "model.safetensors")


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def a_summary(**said) -> Summary:
    """Of a finished run, of which only `said` matters."""
    nothing = {"recipe": "quickstart", "seed": 0, "params": 1, "epochs": 1.0, "steps": 1, "images_per_second": 1.0}
    nothing |= {"data_stall_fraction": 0.0, "time_fractions": {}, "advice": "", "wall_seconds": 1.0, "processes": 1}
    nothing |= {"device": "cpu", "manifest_sha256": "0" * 64, "run_dir": "runs/quickstart-001", "status": FINISHED}
    return Summary(**(nothing | said))


def lines(folder: Path, key: str) -> dict[int, float]:
    return {line["step"]: line[key] for line in read_metrics(folder) if key in line}


def importorskip_backend(backend: str) -> None:
    if (package := BACKENDS[backend].package) is not None:
        pytest.importorskip(package)
