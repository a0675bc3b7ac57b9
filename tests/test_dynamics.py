"""Per-example dynamics: against a slow reference loop, against definitions by hand, across stops and processes."""

import json
import math

import copies
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from timm.models import register_model
from whole_runs import SMALL, StopAfter, fresh_accelerate  # noqa: F401

from fastgen import cli
from fastgen.recipe.load import load
from fastgen.runs import dynamics
from fastgen.training import recorder as recording
from fastgen.training.loop import train
from fastgen.training.watching import Watcher
from pipelines.errors import UserError
from pipelines.sampler import SubsetSpec

PARTIAL = [*SMALL, "train.dynamics=true", "data.labels.kind=partial", "data.labels.p=0.5"]


def run(folder, *settings, resume=False, watchers=()):
    AcceleratorState._reset_state(True)
    return train(load("quickstart", [*PARTIAL, *settings, f"run.dir={folder}", f"run.resume={resume}"]), watchers)


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "dynamics").iterdir()}


def epochs(folder) -> list[pa.Table]:
    return [pq.read_table(path) for path in sorted((folder / "dynamics").glob("epoch-*.parquet"))]


# ---------------------------------------------------------------- what is recorded


class Captured(Watcher, list):
    """What every micro-batch of a run gave, copied at once and kept as numpy: (logits, given, true, index)."""

    def batch(self, batch, logits, loss):
        tensors = logits.float(), batch.label, batch.clean_label, batch.index
        self.append([tensor.clone().numpy() for tensor in tensors])


class TwoHeads(torch.nn.Module):
    """With an auxiliary classifier in training mode, as timm's Inception V3 with aux_logits=true."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0, **_: object) -> None:
        super().__init__()
        self.main, self.side = (torch.nn.Linear(in_chans * 100, num_classes) for _ in range(2))

    def forward(self, images):
        images = images.flatten(1)
        return (self.main(images), self.side(images)) if self.training else self.main(images)


@register_model
def two_heads_of_test_dynamics(pretrained: bool = False, **arguments: object) -> torch.nn.Module:
    return TwoHeads(**arguments)


@pytest.mark.parametrize(
    "settings",
    [
        ("train.accumulate=3",),
        ("train.precision=bf16", "train.label_smoothing=0.1"),
        ("model.name=two_heads_of_test_dynamics", "train.aux_weight=0.4"),
    ],
)
def test_every_number_against_a_slow_loop(settings, tmp_path):
    captured = Captured()
    run(tmp_path / "run", "train.epochs=2", *settings, watchers=[captured])
    tables = epochs(tmp_path / "run")
    samples, half = 100, len(captured) // 2
    expected: list[dict[int, tuple]] = [{}, {}]
    latest = np.full((samples, 10), np.nan)
    for i, (logits, given, true, index) in enumerate(captured):
        for z, y, t, at in zip(logits.astype(np.float64), given, true, index, strict=True):
            p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            others = max(value for k, value in enumerate(z) if k != y)
            row = -math.log(p[y]), p[y], z[y] - others, z.argmax() == y, z.argmax() == t, y, t
            expected[i >= half][int(at)] = row
            latest[at] = p
    assert len(tables) == 2 and len(expected[0]) == len(expected[1]) == 90
    labels = pq.read_table(tmp_path / "run" / "dynamics" / "labels.parquet").to_pydict()
    for number, (table, rows) in enumerate(zip(tables, expected, strict=True), 1):
        assert table["index"].to_pylist() == list(range(samples)) and set(table["epoch"].to_pylist()) == {number}
        for at, found in enumerate(table.to_pylist()):
            assert found["seen"] == (at in rows)
            values = [found[name] for name in dynamics.MEASURES[:-1]]
            if found["seen"]:
                assert values == pytest.approx(rows[at][:5], rel=1e-4, abs=1e-5)
                assert (labels["given_label"][at], labels["true_label"][at]) == rows[at][5:]
            else:
                assert values == [None] * 5
    probabilities = np.load(tmp_path / "run" / "dynamics" / "pred_probs.npy")
    assert np.allclose(probabilities, latest, atol=1e-5, equal_nan=True)


def test_recording_changes_nothing_of_the_training(tmp_path):
    run(tmp_path / "with")
    run(tmp_path / "without", "train.dynamics=false")
    one, two = (next((tmp_path / name).rglob("model.safetensors")) for name in ("with", "without"))
    assert not (tmp_path / "without" / "dynamics").exists()
    assert all(torch.equal(load_file(one)[name], value) for name, value in load_file(two).items())


def test_probabilities_are_what_cleanlab_takes(tmp_path):
    """Its assert_valid_inputs: an array (samples, classes), as long as the labels, values in [0, 1]; labels 0..K-1.
    (NaN, in rows never trained on, it does not notice: four epochs leave none here.)"""
    run(tmp_path / "run")
    table = pq.read_table(tmp_path / "run" / "dynamics" / "samples.parquet")
    probabilities = np.load(tmp_path / "run" / "dynamics" / "pred_probs.npy")
    assert probabilities.dtype == np.float32 and probabilities.shape == (len(table), 10) == (100, 10)
    assert probabilities.min() >= 0 and probabilities.max() <= 1
    assert np.abs(probabilities.sum(1) - 1).max() < 1e-6
    assert set(table["given_label"].to_pylist()) == set(range(10))


def test_too_many_classes_and_samples_for_probabilities(tmp_path, monkeypatch):
    run(tmp_path / "whole")
    monkeypatch.setattr(dynamics, "MOST_PROBABILITIES", 999)
    run(tmp_path / "run")
    expected = files(tmp_path / "whole")
    del expected["pred_probs.npy"], expected["mean_probs.npy"]
    assert files(tmp_path / "run") == expected


# ---------------------------------------------------------------- stopping, and several processes


@pytest.mark.parametrize("together", [1, 10**9])
def test_stopped_anywhere_the_files_are_those_of_a_run_that_never_stopped(together, tmp_path, monkeypatch):
    """Three steps an epoch: stopped in the middle of one, at its end, and at the end of the run."""
    monkeypatch.setattr(recording, "_MOST_LOGITS", together)
    run(tmp_path / "whole")
    expected = files(tmp_path / "whole")
    assert len(expected) == 4 + 4
    for step in (1, 3, 5, 12):
        folder = tmp_path / f"stopped{step}"
        with pytest.raises(SystemExit):
            run(folder, watchers=[StopAfter(step)])
        assert set(files(folder)) == {"labels.parquet", *(f"epoch-{n:05d}.parquet" for n in range(1, step // 3 + 1))}
        run(folder, resume=True)
        assert files(folder) == expected


def test_a_run_that_ends_within_an_epoch_and_goes_on(tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    constant = "schedule.kind=constant"
    run(whole, constant)
    run(part, constant, "train.max_steps=5")
    *_, last = epochs(part)
    assert last["epoch"][0].as_py() == 2 and sum(last["seen"].to_pylist()) == 60
    assert dynamics.per_sample(part)["epochs_seen"].to_numpy().sum() == 150
    run(part, constant, resume=True)
    assert files(part) == files(whole)


def test_what_comes_after_the_checkpoint_is_forgotten(tmp_path):
    """A run that was killed leaves epochs that its last checkpoint knows nothing of."""
    run(tmp_path / "run", "train.max_steps=6", "schedule.kind=constant")
    before = files(tmp_path / "run")
    (tmp_path / "run" / "dynamics" / "epoch-00003.parquet").write_bytes(b"of later")
    run(tmp_path / "run", "train.max_steps=6", "schedule.kind=constant", resume=True)
    assert files(tmp_path / "run") == before


@pytest.mark.parametrize("folds", [None, 4])
def test_two_processes_record_what_one_does(folds, tmp_path):
    """With checkpoints in the middle of epochs, and continued by one process."""
    samples = 101 if folds is None else 135  # a fold leaves the same number
    settings = ["model.dropout=0", f"data.synthetic.samples={samples}", "schedule.kind=constant"]
    settings += [] if folds is None else [f"data.subset.folds={folds}"]
    run(tmp_path / "one", *settings)
    start = [*PARTIAL, *settings, "train.max_steps=5", f"run.dir={tmp_path / 'two'}", "run.checkpoint_minutes=0"]
    copies.train(*start, processes=2)
    run(tmp_path / "two", *settings, resume=True)
    assert files(tmp_path / "one").keys() == files(tmp_path / "two").keys()
    for one, two in zip(epochs(tmp_path / "one"), epochs(tmp_path / "two"), strict=True):
        for name in ("index", "epoch", "seen"):
            assert one[name] == two[name]
        for name in ("loss_nats", "probability", "margin"):
            # Sums over half batches round differently.
            assert np.allclose(one[name].to_numpy(), two[name].to_numpy(), rtol=1e-3, atol=1e-4, equal_nan=True)
    names = [dynamics.LATEST, dynamics.MEAN] + ([] if folds is None else [dynamics.OUT_OF_SAMPLE])
    for name in names:
        one, two = (dynamics.read_probabilities(tmp_path / folder, name) for folder in ("one", "two"))
        assert np.allclose(one, two, atol=1e-3, equal_nan=True)
    if folds is not None:  # on two processes at the end, too
        copies.train(*PARTIAL, *settings, f"run.dir={tmp_path / 'whole'}", processes=2)
        assert np.allclose(dynamics.read_probabilities(tmp_path / "whole", name), one, atol=1e-3, equal_nan=True)


# ---------------------------------------------------------------- what follows from it


def recorded(run_dir, given, true, epochs_of_rows):
    """Write files by hand. epochs_of_rows: for each epoch and sample (correct, margin, probability), or None."""
    folder = run_dir / "dynamics"
    run_dir.mkdir(exist_ok=True)
    dynamics.write_labels(folder, np.array(given), np.array(true))
    for epoch, rows in enumerate(epochs_of_rows, 1):
        measures = np.zeros((len(given), len(dynamics.MEASURES)), np.float32)
        for measured, row in zip(measures, rows, strict=True):
            if row is not None:
                found = {"correct_given": row[0], "margin": row[1], "probability": row[2], "seen": 1}
                measured[:] = [found.get(name, 0) for name in dynamics.MEASURES]
        dynamics.write_epoch(folder, epoch, measures)
    return run_dir


def test_definitions_by_hand(tmp_path):
    sequences = {  # one letter an epoch: correct, wrong, not seen -> first learned, forgotten, seen, correctness
        "CCCC": (1, 0, 4, 1), "WWWW": (None, None, 4, 0), "WCWC": (2, 1, 4, 0.5), "CWCC": (1, 1, 4, 0.75),
        "C.W.": (1, 1, 2, 0.5), ".C.C": (2, 0, 2, 1), "....": (None, None, 0, None), "CWCW": (1, 2, 4, 0.5),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    margin, probability = rng.normal(size=(4, 8)).astype(np.float32), rng.random((4, 8), np.float32)
    rows = [
        [None if s[e] == "." else (s[e] == "C", margin[e, i], probability[e, i]) for i, s in enumerate(sequences)]
        for e in range(4)
    ]
    given, true = [0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 0, 0, 2, 2, 3]
    found = dynamics.write_samples(recorded(tmp_path / "run", given, true, rows)).to_pylist()
    assert pq.read_table(tmp_path / "run" / "dynamics" / "samples.parquet").to_pylist() == found
    for i, (sequence, (first, forgotten, count, correctness)) in enumerate(sequences.items()):
        row, seen = found[i], [e for e in range(4) if sequence[e] != "."]
        assert (row["index"], row["given_label"], row["true_label"]) == (i, given[i], true[i])
        assert row["corrupted"] == (given[i] != true[i])
        assert (row["first_learned_epoch"], row["forgetting_count"], row["epochs_seen"]) == (first, forgotten, count)
        assert row["correctness"] == correctness
        if seen:
            assert row["aum"] == pytest.approx(margin[seen, i].mean())
            assert row["bounded_margin"] == pytest.approx((1 / (1 + np.exp(-margin[seen, i].astype(float)))).mean())
            assert row["confidence"] == pytest.approx(probability[seen, i].mean())
            assert row["variability"] == pytest.approx(probability[seen, i].std())
        else:
            assert row["aum"] is row["bounded_margin"] is row["confidence"] is row["variability"] is None


def test_what_was_never_learned_comes_last(tmp_path):
    """Two clean samples, learned and forgotten once; two corrupted ones, one forgotten twice, one never learned."""
    sequences = ("CWCC", "CWCC", "CWCW", "WWWW")
    rows = [[(s[e] == "C", 0.0, 0.5) for s in sequences] for e in range(4)]
    samples = dynamics.per_sample(recorded(tmp_path / "run", [0, 1, 2, 3], [0, 1, 0, 0], rows))
    assert samples["forgetting_count"].to_pylist() == [1, 1, 2, None]
    areas = dynamics.separation(samples)
    # By hand: all four pairs in order; and of first learning, two of four, as three samples tie in epoch 1.
    assert areas["forgetting_count"] == 1 and areas["first_learned_epoch"] == (2 + 2 * 0.5) / 4
    assert areas["correctness"] == 1 and areas["aum"] == areas["confidence"] == 0.5


def test_separation_is_the_area_under_the_curve(tmp_path):
    rng = np.random.default_rng(1)
    corrupted = rng.random(60) < 0.4
    margin = rng.normal(size=60) - corrupted
    rows = [[(m > 0, m, 0.5) for m in margin]]
    samples = dynamics.per_sample(recorded(tmp_path / "run", np.arange(60) % 3, (np.arange(60) + corrupted) % 3, rows))
    areas = dynamics.separation(samples)
    assert areas["aum"] == pytest.approx(roc_auc_score(corrupted, -margin))
    assert areas["first_learned_epoch"] == pytest.approx(roc_auc_score(corrupted, margin <= 0))
    assert areas["confidence"] == 0.5
    clean = samples.filter(pc.equal(samples["corrupted"], False))
    assert set(dynamics.separation(clean).values()) == {None}


# ---------------------------------------------------------------- the command


def test_the_command_tells_clean_from_corrupted_samples(tmp_path, capsys):
    settings = ["train.dynamics=true", "data.limit=300", "data.labels.kind=partial", "data.labels.p=0.4"]
    train(load("quickstart", [*settings, "train.epochs=12", f"run.dir={tmp_path / 'run'}"]))
    before = files(tmp_path / "run")
    (tmp_path / "run" / "dynamics" / "samples.parquet").unlink()
    assert cli.main(["dynamics", str(tmp_path / "run")]) == 0
    assert files(tmp_path / "run") == before
    text = capsys.readouterr().out
    assert all(word in text for word in ("clean", "corrupted", "AUROC", "aum", "samples.parquet"))
    samples = pq.read_table(tmp_path / "run" / "dynamics" / "samples.parquet")
    assert dynamics.separation(samples)["aum"] > 0.85  # clean samples are learned first
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())["splits"]["train"]
    assert sum(samples["corrupted"].to_pylist()) == manifest["columns"]["random_0.4_s0"]["changed"]
    # With true labels there is nothing to tell apart.
    run(tmp_path / "true", "data.labels.kind=true", "data.labels.p=null")
    assert cli.main(["dynamics", str(tmp_path / "true")]) == 0
    assert "AUROC" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path, capsys):
    def said(*arguments) -> str:
        assert cli.main(["dynamics", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "Missing argument 'RUN_DIR'" in said() and "does not exist" in said(str(tmp_path / "nowhere"))
    assert "train.dynamics=true" in said(str(tmp_path))
    folder = recorded(tmp_path / "run", [0, 1], [0, 1], [])
    assert "no epoch that is complete yet" in said(str(folder))
    recorded(folder, [0, 1], [0, 1], [[(True, 1, 1)] * 2] * 3)
    (folder / "dynamics" / "epoch-00002.parquet").write_bytes(b"damaged")
    assert "epoch-00002.parquet cannot be read" in said(str(folder))
    (folder / "dynamics" / "epoch-00002.parquet").unlink()
    with pytest.raises(UserError, match="epoch-00002.parquet is missing"):
        dynamics.per_sample(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels", lambda table: table.drop(["given_label"])),
        ("labels", lambda table: table.slice(0, 1)),
        ("labels", lambda table: table.append_column("more", pa.array([[1]] * len(table)))),
        ("epoch-00001", lambda table: table.slice(0, 1)),
        ("epoch-00001", lambda table: table.take([1, 0])),
        ("epoch-00001", lambda table: table.set_column(1, "epoch", pa.array([2, 2], pa.int32()))),
        ("epoch-00001", lambda table: table.set_column(7, "seen", pa.array(["x", "y"]))),
        ("epoch-00001", lambda table: table.set_column(0, "index", pa.array([None, 1], pa.int64()))),
    ],
)
def test_files_of_others_are_named(name, change, tmp_path):
    folder = recorded(tmp_path / "run", [0, 1], [0, 1], [[(True, 1, 1)] * 2])
    path = folder / "dynamics" / f"{name}.parquet"
    assert len(dynamics.per_sample(folder)) == 2
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(UserError, match=r"(labels|epoch-00001).parquet .*; restore it, or train again"):
        dynamics.per_sample(folder)


# ---------------------------------------------------------------- of a part of the samples


def test_folds_leave_every_sample_out_once(tmp_path):
    """Three networks: each is trained on two thirds alone, is measured on both parts, and tells of the third."""
    left_out, labels = [], None
    for fold in range(3):
        folder = tmp_path / f"fold{fold}"
        summary = run(folder, "train.epochs=2", "data.subset.folds=3", f"data.subset.fold={fold}", "data.batch_size=8")
        labels = pq.read_table(folder / "dynamics" / "labels.parquet")
        members = SubsetSpec(3, fold).members(labels["given_label"].to_numpy())
        probabilities = dynamics.read_probabilities(folder, dynamics.OUT_OF_SAMPLE)
        assert np.array_equal(np.isnan(probabilities).any(1), members)
        seen = np.any([table["seen"].to_numpy() for table in epochs(folder)], 0)
        assert not (seen & ~members).any() and (seen | ~members).sum() > 90
        assert np.array_equal(~np.isnan(dynamics.read_probabilities(folder, dynamics.MEAN)).any(1), seen)
        # what it says of the part is what the evaluation counted
        given = labels["given_label"].to_numpy()[~members]
        right = probabilities[~members]
        assert summary.left_out_top1 == pytest.approx(100 * (right.argmax(1) == given).mean())
        assert summary.left_out_loss == pytest.approx(-np.log(right[np.arange(len(given)), given]).mean(), rel=1e-4)
        left_out.append(~members)
    assert (np.sum(left_out, 0) == 1).all()


def test_mean_probabilities_over_the_epochs_also_of_a_run_that_was_stopped(tmp_path):
    """Of each epoch, the given label's part is in its file; a stop within an epoch changes nothing."""
    run(tmp_path / "whole", "train.epochs=3")
    with pytest.raises(SystemExit):
        run(tmp_path / "parts", "train.epochs=3", watchers=[StopAfter(4)])
    run(tmp_path / "parts", "train.epochs=3", resume=True)
    whole, parts = (dynamics.read_probabilities(tmp_path / name, dynamics.MEAN) for name in ("whole", "parts"))
    assert np.array_equal(whole, parts, equal_nan=True)
    given = dynamics.per_sample(tmp_path / "whole")["given_label"].to_numpy()
    confidence = dynamics.per_sample(tmp_path / "whole")["confidence"].to_numpy(zero_copy_only=False)
    assert np.allclose(whole[np.arange(100), given], confidence, atol=1e-5, equal_nan=True)
