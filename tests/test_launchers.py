"""Trainings that start as copies of a process that has imported everything are what they are in one of their own."""

import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.forkserver import _forkserver
from pathlib import Path

import psutil
import pytest
import torch
from whole_runs import SMALL, fresh_accelerate, same_weights, weights  # noqa: F401

from fastgen.recipe.load import load
from fastgen.sweeps.executor import DONE, run_points
from fastgen.sweeps.grid import Point
from fastgen.sweeps.launchers import Launcher, LocalLauncher, Training
from fastgen.training.loop import train

CORES = tuple(sorted(os.sched_getaffinity(0)))
MODULES = ["fastgen.training.loop", "torch._dynamo"]


@pytest.fixture(autouse=True)
def fresh_forkserver():
    """A test's own, with what it preloads."""
    _forkserver._stop()
    yield
    _forkserver._stop()


def ended(launcher: Launcher, count: int) -> dict[str, int]:
    found: dict[str, int] = {}
    while len(found) < count:
        found |= dict(launcher.ended())
        time.sleep(0.05)
    return found


def is_free(lock: Path) -> bool:
    with open(lock, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def logged(folder: Path) -> bool:
    """Whether the training in `folder` has logged a step: signals are caught by then (the file is there before)."""
    return (folder / "metrics.jsonl").is_file() and (folder / "metrics.jsonl").stat().st_size > 0


def wait_for_steps(folder: Path) -> None:
    while not logged(folder):
        time.sleep(0.05)


def starter(launcher: Launcher, tmp_path: Path):
    def start(name: str, *settings: str) -> Path:
        log = tmp_path / f"{name}.txt"
        log.write_text("before\n")
        launcher.start(Training(("recipe=quickstart", *SMALL, *settings), tmp_path / name, log))
        return log

    return start


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    return path


def test_started_trainings_are_what_they_are_on_their_own(tmp_path, lock, capfd):
    with LocalLauncher(MODULES, lock, [CORES] * 4) as launcher:
        start = starter(launcher, tmp_path)
        logs = {name: start(name) for name in ("first", "second")}
        logs["mistaken"] = start("mistaken", "data.sorce=digits")
        logs["diverging"] = start("diverging", "optim.lr=1e30", "track.wandb=offline")
        assert ended(launcher, 4) == {"first": 0, "second": 0, "mistaken": 2, "diverging": 1}
        # Each wrote to its own log, after what was there.
        said = {name: log.read_text() for name, log in logs.items()}
        assert all(text.startswith("before\n") for text in said.values())
        assert f"{tmp_path / 'first'}:" in said["first"] and "second" not in said["first"]
        assert said["mistaken"].count("\n") == 2 and "did you mean 'data.source'" in said["mistaken"]
        assert "diverged" in said["diverging"]
        (kept,) = (tmp_path / "diverging").rglob("*.wandb")
        assert kept.stat().st_size > 1000  # W&B was told of the end, and wrote what it had
        # Bit for bit what a process of its own computes, which the first one left no trace in the second for.
        threads = torch.get_num_threads()
        train(load("quickstart", [*SMALL, f"run.dir={tmp_path / 'own'}"]))
        torch.set_num_threads(threads)
        assert all(same_weights(weights(tmp_path / name), weights(tmp_path / "own")) for name in ("first", "second"))
        capfd.readouterr()
        assert launcher.takes_more and not launcher.running  # each gave its cores back

        start("long", "train.epochs=100000")
        wait_for_steps(tmp_path / "long")
        assert not is_free(lock)
    # Leaving it has stopped what still ran, in good order; nothing holds the lock any more.
    summary = json.loads((tmp_path / "long" / "summary.json").read_text())
    assert summary["status"] == "interrupted" and weights(tmp_path / "long")
    assert is_free(lock)
    assert capfd.readouterr() == ("", "")


def test_a_training_has_its_own_cores_environment_and_session(tmp_path, lock, monkeypatch):
    core = min(os.sched_getaffinity(0))
    with LocalLauncher(MODULES, lock, [(core,), (core,)]) as launcher:
        for name in ("one", "another"):  # the second one's environment is newer than the forkserver
            monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path / f"cache_of_{name}"))
            starter(launcher, tmp_path)(name, "train.epochs=100000")
            wait_for_steps(tmp_path / name)
            assert list((tmp_path / f"cache_of_{name}").iterdir())
        pids = [child.pid for child in multiprocessing.active_children()]
        assert len(pids) == 2
        assert all(psutil.Process(pid).cpu_affinity() == [core] and os.getpgid(pid) == pid for pid in pids)


def test_what_cannot_be_imported_is_told(tmp_path, lock, monkeypatch, capfd):
    with LocalLauncher(["no_such_module"], lock, [CORES]) as launcher:
        log = starter(launcher, tmp_path)("run")
        assert ended(launcher, 1) == {"run": 1}
        assert "No module named 'no_such_module'" in log.read_text()
    _forkserver._stop()
    (tmp_path / "broken.py").write_text("raise OSError('a library is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with LocalLauncher(["broken"], lock, [CORES]) as launcher, pytest.raises(RuntimeError, match="has ended"):
        starter(launcher, tmp_path)("other")
    assert "OSError: a library is missing" in capfd.readouterr().err


@pytest.mark.parametrize("moment", ["importing", "training"])
def test_signals_to_the_whole_group(moment, tmp_path):
    """As a terminal sends Ctrl-C, and a cluster SIGTERM: the sweep ends its trainings in good order, then itself."""
    settings = ["recipe=quickstart", *(one for one in SMALL if not one.startswith("run.")), "train.epochs=100000"]
    command = [sys.executable, "-m", "fastgen.cli", "sweep", *settings, "--output", str(tmp_path / "sweep")]
    sweep = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)

    def has_come() -> bool:
        if moment == "training":
            return any(logged(folder) for folder in (tmp_path / "sweep").glob("*/"))
        return any("forkserver" in " ".join(child.cmdline()) for child in psutil.Process(sweep.pid).children())

    while not has_come():
        assert sweep.poll() is None
        time.sleep(0.01)
    number = signal.SIGTERM if moment == "training" else signal.SIGINT
    os.killpg(sweep.pid, number)
    _, said = sweep.communicate()
    assert sweep.returncode == 128 + number and "Traceback" not in said
    states = [json.loads(path.read_text())["status"] for path in (tmp_path / "sweep").glob("*/summary.json")]
    # The forkserver starts the training once it has imported everything, which can be just before it is stopped.
    assert states == ["interrupted"] or (moment == "importing" and states == [])


@pytest.mark.gpu
def test_on_the_gpu(tmp_path):
    """The process that has imported everything has not touched the device, so its copies can use it, two at a time."""
    jobs = run_points([Point("quickstart", ("train.epochs=2", f"seed={seed}")) for seed in range(2)], tmp_path, 2)
    assert [job.state for job in jobs] == [DONE, DONE]
    assert all(job.summary.device == "cuda" for job in jobs)
