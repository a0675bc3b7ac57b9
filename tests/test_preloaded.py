"""Trainings that start as copies of a preloaded process are what they are in one of their own."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from whole_runs import SMALL, fresh_accelerate, same_weights, weights  # noqa: F401

from fastgen.recipe.load import load
from fastgen.sweeps.executor import DONE, run_points
from fastgen.sweeps.grid import Point
from fastgen.sweeps.launchers import Preloaded
from fastgen.training.loop import train

MODULES = ["fastgen.training.loop", "torch._dynamo"]


def ended(trainings: Preloaded, count: int) -> dict[str, int]:
    found: dict[str, int] = {}
    while len(found) < count:
        found |= dict(trainings.ended())
        time.sleep(0.05)
    return found


def test_trainings_from_a_preloaded_process(tmp_path):
    cores = tuple(sorted(os.sched_getaffinity(0)))
    kept, held = os.pipe()
    with Preloaded(MODULES, tmp_path / "preloaded.txt", held) as trainings:

        def start(name: str, *settings: str) -> Path:
            folder, log = tmp_path / name, tmp_path / f"{name}.txt"
            log.write_text("before\n")
            trainings.start(name, ["recipe=quickstart", *SMALL, f"run.dir={folder}", *settings], log, cores)
            return log

        logs = {name: start(name) for name in ("first", "second")}
        logs["mistaken"] = start("mistaken", "data.sorce=digits")
        logs["diverging"] = start("diverging", "optim.lr=1e30")
        assert ended(trainings, 4) == {"first": 0, "second": 0, "mistaken": 2, "diverging": 1}
        # Each wrote to its own log, after what was there.
        said = {name: log.read_text() for name, log in logs.items()}
        assert all(text.startswith("before\n") for text in said.values())
        assert f"{tmp_path / 'first'}:" in said["first"] and "second" not in said["first"]
        assert said["mistaken"].count("\n") == 2 and "did you mean 'data.source'" in said["mistaken"]
        assert "diverged" in said["diverging"]
        # Bit for bit what a process of its own computes, which the first one left no trace in the second for.
        threads = torch.get_num_threads()
        train(load("quickstart", [*SMALL, f"run.dir={tmp_path / 'own'}"]))
        torch.set_num_threads(threads)
        assert all(same_weights(weights(tmp_path / name), weights(tmp_path / "own")) for name in ("first", "second"))

        start("long", "train.epochs=100000")
        while not (tmp_path / "long" / "metrics.jsonl").is_file():
            time.sleep(0.05)
    # Leaving it has stopped what still ran, in good order; nothing holds the descriptor any more.
    summary = json.loads((tmp_path / "long" / "summary.json").read_text())
    assert summary["status"] == "interrupted" and weights(tmp_path / "long")
    os.close(held)
    assert os.read(kept, 1) == b""
    os.close(kept)
    assert (tmp_path / "preloaded.txt").read_text() == ""


def test_a_preloaded_process_that_fails_says_why(tmp_path):
    with (
        open(tmp_path / "kept", "wb") as kept,
        Preloaded(["no_such_module"], tmp_path / "log.txt", kept.fileno()) as trainings,
        pytest.raises(RuntimeError, match="No module named 'no_such_module'"),
    ):
        ended(trainings, 1)


@pytest.mark.gpu
def test_on_the_gpu(tmp_path):
    """The process that has imported everything has not touched the device, so its copies can use it, two at a time."""
    jobs = run_points([Point("quickstart", ("train.epochs=2", f"seed={seed}")) for seed in range(2)], tmp_path, 2)
    assert [job.state for job in jobs] == [DONE, DONE]
    assert all(job.summary["device"] == "cuda" for job in jobs)
