"""Per-example dynamics: against plain numpy, against the definitions by hand, and across stops and processes."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score
from whole_runs import ROOT, SMALL, fresh_accelerate  # noqa: F401

from fastgen import cli, dynamics
from fastgen.recipe import load
from fastgen.train import train
from fastgen.training import checkpoints
from fastgen.training.dynamics import Dynamics, measure

RECORDED = [*SMALL, "train.dynamics=true", "data.labels.kind=partial", "data.labels.p=0.5"]


def tables(run):
    return {path.name: pq.read_table(path).to_pydict() for path in sorted((run / "dynamics").glob("*.parquet"))}


def test_measures_are_those_of_plain_numpy():
    rng = np.random.default_rng(0)
    logits, label, true = rng.normal(size=(50, 7)) * 5, rng.integers(0, 7, 50), rng.integers(0, 7, 50)
    found, probabilities = measure(*(torch.from_numpy(a) for a in (logits.astype(np.float32), label, true)))
    for row in range(50):
        exp = np.exp(logits[row] - logits[row].max())
        p = exp / exp.sum()
        others = np.delete(logits[row], label[row])
        best = logits[row].argmax()
        expected = {
            "loss_nats": -np.log(p[label[row]]), "probability": p[label[row]],
            "margin": logits[row, label[row]] - others.max(), "correct_given": best == label[row],
            "correct_true": best == true[row], "seen": 1,
        }  # fmt: skip
        assert found[row].tolist() == pytest.approx(
            [float(expected[name]) for name in dynamics.MEASURES], rel=1e-4, abs=1e-5
        )
        assert probabilities[row].numpy() == pytest.approx(p, abs=1e-5)


def test_definitions_by_hand(tmp_path):
    """Four samples over five epochs; the last one is never seen."""
    folder = tmp_path / "dynamics"
    dynamics.write_labels(folder, np.array([0, 1, 2, 3]), np.array([0, 1, 0, 3]))
    correct = [[0, 1, 0, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]
    seen = [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [1, 1, 1, 1, 1]]
    probability = [[0.1, 0.9, 0.3, 0.6, 0.8], [0.5, 9, 0.7, 0.9, 9], [0.1, 0.1, 0.1, 0.1, 0.1]]
    for epoch in range(5):
        rows = np.zeros((4, len(dynamics.MEASURES)), np.float32)
        for i in range(3):
            values = {"probability": probability[i][epoch], "margin": i + epoch, "correct_given": correct[i][epoch]}
            for name, value in {**values, "seen": 1}.items():
                rows[i, dynamics.MEASURES.index(name)] = value * seen[i][epoch]
        dynamics.write_epoch(folder, epoch + 1, rows)
    samples = dynamics.per_sample(tmp_path).to_pydict()
    assert samples["corrupted"] == [False, False, True, False] and samples["epochs_seen"] == [5, 3, 5, 0]
    assert samples["first_learned_epoch"] == [2, 1, None, None]
    assert samples["forgetting_count"] == [1, 0, 0, None]
    assert samples["aum"] == [2.0, pytest.approx((1 + 3 + 4) / 3), 4.0, None]
    expected = [np.array(probability[0]), np.array([0.5, 0.7, 0.9]), np.full(5, 0.1)]
    assert samples["confidence"][:3] == pytest.approx([e.mean() for e in expected])
    assert samples["variability"][:3] == pytest.approx([e.std() for e in expected], abs=1e-6)
    epoch = pq.read_table(folder / "epoch-00002.parquet").to_pydict()
    assert epoch["loss_nats"][1] is None and epoch["seen"] == [True, False, True, False]
    areas = dynamics.separation(dynamics.per_sample(tmp_path))
    assert areas["first_learned_epoch"] == 1.0
    assert areas["confidence"] == roc_auc_score([0, 0, 1], [-e.mean() for e in expected])


def test_a_run_records_what_its_steps_computed(tmp_path, monkeypatch):
    """Each step's logits, caught on their way, give the same rows; the dropped tail is null."""
    caught = {}
    original = Dynamics.add

    def add(self, logits, batch):
        for row, index, label in zip(logits.numpy(), batch.index.tolist(), batch.label.tolist(), strict=True):
            caught.setdefault(index, []).append((row.astype(np.float64), label))
        original(self, logits, batch)

    monkeypatch.setattr(Dynamics, "add", add)
    run = tmp_path / "run"
    train(load("quickstart", [*RECORDED, "train.epochs=2", "train.accumulate=3", f"run.dir={run}"]))
    epochs = [pq.read_table(run / "dynamics" / f"epoch-0000{n}.parquet").to_pydict() for n in (1, 2)]
    taken = dict.fromkeys(caught, 0)
    for epoch in epochs:
        assert epoch["index"] == list(range(100)) and sum(epoch["seen"]) == 90
        for index in range(100):
            if epoch["seen"][index]:
                logits, label = caught[index][taken[index]]
                taken[index] += 1
                others = np.delete(logits, label)
                assert epoch["margin"][index] == pytest.approx(logits[label] - others.max(), rel=1e-4, abs=1e-5)
                loss = np.log(np.exp(logits).sum()) - logits[label]
                assert epoch["loss_nats"][index] == pytest.approx(loss, rel=1e-4, abs=1e-5)
            else:
                assert epoch["loss_nats"][index] is None
    # What cleanlab takes: a row per sample in order, probabilities that add up to one.
    probabilities = np.load(run / "dynamics" / "pred_probs.npy")
    assert probabilities.shape == (100, 10) and probabilities.dtype == np.float32
    known = ~np.isnan(probabilities).any(1)
    assert known.tolist() == [index in caught for index in range(100)]
    assert probabilities[known].sum(1) == pytest.approx(1, abs=1e-5)
    for index, seen in caught.items():
        exp = np.exp(seen[-1][0])
        assert probabilities[index] == pytest.approx(exp / exp.sum(), abs=1e-5)
    labels = pq.read_table(run / "dynamics" / "labels.parquet").to_pydict()
    assert all(labels["given_label"][index] == seen[0][1] for index, seen in caught.items())


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_stopped_run_records_the_same(stop, tmp_path, monkeypatch):
    from accelerate.state import AcceleratorState

    train(load("quickstart", [*RECORDED, f"run.dir={tmp_path / 'whole'}"]))
    AcceleratorState._reset_state(True)
    # As a signal does: a checkpoint at this step, and nothing more.
    original = checkpoints.save

    def save(accelerator, folder, position, keep):
        original(accelerator, folder, position, keep)
        if position.step == stop:
            raise KeyboardInterrupt

    settings = [*RECORDED, f"run.dir={tmp_path / 'parts'}"]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoints, "save", save)
        train(load("quickstart", [*settings, "run.checkpoint_minutes=0"]))
    AcceleratorState._reset_state(True)
    train(load("quickstart", [*settings, "run.resume=true"]))
    assert tables(tmp_path / "parts") == tables(tmp_path / "whole")
    files = [np.load(tmp_path / name / "dynamics" / "pred_probs.npy") for name in ("parts", "whole")]
    assert np.array_equal(*files, equal_nan=True)


def test_two_processes_record_what_one_does(tmp_path):
    settings = [s for s in RECORDED if not s.startswith("model.dropout")]  # whose masks differ by process
    settings += ["train.precision=fp32"]
    train(load("quickstart", [*settings, f"run.dir={tmp_path / 'one'}"]))
    config = ROOT / "recipes" / "accelerate" / "cpu_2.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command = [*launch, str(ROOT / "fastgen" / "train.py"), "recipe=quickstart", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, f"run.dir={tmp_path / 'two'}"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    one, two = tables(tmp_path / "one"), tables(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, columns in one.items():
        for column, values in columns.items():
            for a, b in zip(values, two[name][column], strict=True):
                assert b == (pytest.approx(a, rel=1e-3, abs=1e-4) if isinstance(a, float) else a), (name, column)


def test_the_command_tells_clean_from_corrupted(tmp_path, capsys):
    run = tmp_path / "run"
    settings = ["train.dynamics=true", "data.limit=300", "data.labels.kind=partial", "data.labels.p=0.4"]
    train(load("quickstart", [*settings, "train.epochs=12", f"run.dir={run}"]))
    (run / "dynamics" / "samples.parquet").unlink()
    capsys.readouterr()
    assert cli.main(["dynamics", str(run)]) == 0
    assert "AUROC" in capsys.readouterr().out
    samples = pq.read_table(run / "dynamics" / "samples.parquet")
    assert dynamics.separation(samples)["aum"] > 0.85  # clean samples are learned first
    changed = json.loads((run / "manifest.json").read_text())["splits"]["train"]["columns"]["random_0.4_s0"]["changed"]
    assert sum(samples["corrupted"].to_pylist()) == changed
    (run / "dynamics" / "epoch-00002.parquet").unlink()
    for arguments, message in (
        ([str(run)], "epoch-00002.parquet is missing"),
        ([str(tmp_path)], "train with train.dynamics=true"),
        ([], "needs the folder of one run"),
    ):
        assert cli.main(["dynamics", *arguments]) == 2
        assert message in capsys.readouterr().err
