"""The golden runs: losses and weights stay what they were, bit for bit where the machine rounds alike."""

import json

import copies
import pytest
from accelerate.state import AcceleratorState
from golden_runs import GOLDEN, RUNS, machine, told
from whole_runs import fresh_accelerate  # noqa: F401

from fastgen.recipe.load import load
from fastgen.training.loop import train

WRITTEN = json.loads(GOLDEN.read_text())
ALIKE = WRITTEN["machine"] == machine()


def compare(folder, name):
    found, expected = told(folder), WRITTEN["runs"][name]
    if ALIKE:
        assert found == expected
        return
    assert found.keys() == expected.keys() and found["last"] == expected["last"]
    for key in ("train_running_loss_nats", "train_loss_nats", "test_loss_nats", "norms"):
        assert found[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-4)


def test_they_are_written_down():
    assert WRITTEN["runs"].keys() == RUNS.keys() and all(len(run["norms"]) > 4 for run in WRITTEN["runs"].values())


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_what_it_was(name, tmp_path):
    processes, settings = RUNS[name]
    settings = [*settings, f"run.dir={tmp_path / 'run'}"]
    if processes == 1:
        train(load("quickstart", settings))
    else:
        copies.train(*settings, processes=processes)
    compare(tmp_path / "run", name)


@pytest.mark.parametrize("name", ["dropout", "like ImageNet's"])
def test_a_run_that_goes_on_in_the_middle_of_an_epoch_is_what_it_was(name, tmp_path):
    settings = [*RUNS[name][1], f"run.dir={tmp_path / 'run'}"]
    train(load("quickstart", [*settings, "train.max_steps=4", "track.log_steps=1"]))
    (tmp_path / "run" / "summary.json").unlink()
    AcceleratorState._reset_state(True)
    train(load("quickstart", [*settings, "run.resume=true"]))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines(keepends=True)
    # The first half ended with an evaluation, as every run does.
    kept = [line for line in lines if json.loads(line)["step"] != 4 or "learning_rate" in line]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(kept))
    compare(tmp_path / "run", name)
