"""Runs of several processes: the losses of one, each sample once, mistakes told once."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import copies
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from whole_runs import ROOT, SMALL, fresh_accelerate, importorskip_backend, lines  # noqa: F401

from fastgen.recipe.load import load
from fastgen.runs.summary import Summary
from fastgen.training.data import data_of, open_engines, set_of
from fastgen.training.loop import train
from pipelines.backends import BACKENDS
from pipelines.errors import UserError

TRAIN = ROOT / "fastgen" / "train.py"


def launch(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """By Accelerate's launcher, which starts each process anew."""
    config = ["--config_file", str(ROOT / "recipes" / "accelerate" / "cpu_2.yaml"), "--main_process_port", "0"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *config, str(TRAIN), "recipe=quickstart"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300, cwd=cwd)


@pytest.mark.parametrize("more", [(), ("optim.clip=0.5", "optim.weight_decay=0.05")], ids=["plain", "clipped"])
def test_two_processes_give_the_losses_of_one(more, tmp_path):
    settings = [*SMALL, *more, "model.dropout=0", "data.synthetic.samples=101", "data.synthetic.test_samples=31"]
    settings += ["schedule.kind=exponential"]
    settings_of_two = [*settings, "train.accumulate=3", f"run.dir={tmp_path / 'two'}"]
    if more:
        copies.train(*settings_of_two, processes=2)
    else:
        done = launch(*settings_of_two, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = train(load("quickstart", [*settings, f"run.dir={tmp_path / 'one'}"])), Summary.read(tmp_path / "two")
    assert (one.processes, two.processes) == (1, 2)
    losses = [lines(tmp_path / name, "train_running_loss_nats") for name in ("one", "two")]
    assert losses[0].keys() == losses[1].keys() and len(losses[0]) == 12
    assert np.allclose(list(losses[0].values()), list(losses[1].values()), rtol=1e-5)
    for key in ("train_loss", "test_loss"):
        assert getattr(one, key) == pytest.approx(getattr(two, key), rel=1e-4)
    for key in ("train_top1", "test_top1", "test_top5", "train_top1_corrupted_part"):
        assert getattr(one, key) == pytest.approx(getattr(two, key), abs=1.1)  # one sample's rounding
    # A run of two processes goes on with one, and ends as if it had always been one.
    AcceleratorState._reset_state(True)
    more = [*settings, "train.accumulate=3", "train.epochs=6"]
    resumed = train(load("quickstart", [*more, f"run.dir={tmp_path / 'two'}", "run.resume=true"]))
    assert (resumed.steps, resumed.processes) == (18, 1)


@pytest.mark.parametrize("backend", tuple(BACKENDS))
def test_each_sample_once_over_two_processes(backend, tmp_path):
    """Sizes that neither the processes nor the batch divide: training drops its tail, evaluation nothing."""
    importorskip_backend(backend)
    settings = ["data.source=synthetic", "data.synthetic.samples=53", "data.synthetic.test_samples=31"]
    settings += ["data.synthetic.size=40", "data.synthetic.jpeg=true", "data.batch_size=10", "data.eval_batch_size=12"]
    settings += ["data.image_size=32"]
    done = copies.run(ROOT / "tests" / "log_indices.py", tmp_path / "seen", backend, *settings, processes=2)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2))
    for epoch in range(2):
        trained = first["training"][epoch] + second["training"][epoch]
        assert len(trained) == len(set(trained)) == 50
        assert sorted(first["train"][epoch] + second["train"][epoch]) == list(range(53))
        assert sorted(first["val"][epoch] + second["val"][epoch]) == list(range(31))
    assert first["training"][0] != first["training"][1]


def test_processes_draw_their_own_dropout_and_share_their_weights(tmp_path):
    settings = ["recipe=quickstart", *SMALL, f"run.dir={tmp_path / 'run'}"]
    done = copies.run(ROOT / "tests" / "log_masks.py", tmp_path / "said", *settings, processes=2)
    assert done.returncode == 0, done.stderr
    one, other = (json.loads((tmp_path / f"said-{rank}.json").read_text()) for rank in range(2))
    assert one["evaluation"] == other["evaluation"] and one["training"] != other["training"]
    assert one["buffer"] == other["buffer"] == 0  # batch norm's statistics, of which DDP keeps one process's


@pytest.mark.parametrize("number, fits", [(3, True), (2, False)])
def test_each_process_has_samples_of_an_evaluation(number, fits, tmp_path):
    recipe = load("quickstart", [*SMALL, f"data.eval_batch_size={number}"])
    baked = set_of(recipe)
    opened = open_engines(recipe.data, baked, torch.device("cpu"), 1)
    with nullcontext() if fits else pytest.raises(UserError, match="eval_batch_size=2 .* use at least 3"):
        data_of(recipe, baked, opened, torch.device("cpu"), rank=0, world_size=3)


def test_a_mistake_in_two_processes_is_told_once(tmp_path):
    done = launch("data.source=parquet", "data.root=/nowhere", cwd=tmp_path)
    assert done.returncode != 0 and done.stderr.count("fastgen: ") == 1 and "/nowhere does not exist" in done.stderr


def test_the_launch_that_starts_one_process_of_two_is_refused(tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run(
        [*command, str(TRAIN), "recipe=quickstart"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode != 0 and "recipes/accelerate/cpu_2.yaml" in done.stderr
    assert not (tmp_path / "fastgen_out").exists()
