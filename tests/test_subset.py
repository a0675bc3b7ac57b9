"""Trainings on a fraction of the samples, and what a run says of every sample at its end."""

import hashlib

import copies
import numpy as np
import pyarrow.parquet as pq
import pytest
from accelerate.state import AcceleratorState
from whole_runs import SMALL, StopAfter, fresh_accelerate, importorskip_backend, lines, same_weights, weights  # noqa: F401

from fastgen import cli
from fastgen.recipe.load import load
from fastgen.runs import predictions
from fastgen.runs.summary import Summary
from fastgen.training.loop import train
from fastgen.training.watching import Watcher
from pipelines.backends import BACKENDS
from pipelines.errors import UserError
from pipelines.sampler import Sampler, SubsetSpec

PART = [*SMALL, "data.subset.fraction=0.6", "data.subset.seed=3", "data.labels.kind=partial", "data.labels.p=0.5"]


def members(samples: int = 100, **spec) -> np.ndarray:
    return SubsetSpec(**spec).members(np.zeros(samples, int))


def run(folder, *settings, watchers=(), resume=False):
    AcceleratorState._reset_state(True)
    return train(load("quickstart", [*PART, *settings, f"run.dir={folder}", f"run.resume={resume}"]), watchers)


class Seen(Watcher):
    """The sample indices of each epoch."""

    def __init__(self):
        self.epochs = [[]]

    def batch(self, batch, logits, loss):
        self.epochs[-1] += batch.index.tolist()

    def epoch(self, epoch):
        self.epochs.append([])


# ---------------------------------------------------------------- who is in


@pytest.mark.parametrize("samples, fraction, size", [(100, 0.7, 70), (101, 0.7, 71), (50_000, 0.1, 5000), (3, 0.34, 1)])
def test_a_fraction_has_its_exact_number_of_samples(samples, fraction, size):
    first, again, other = (members(samples, fraction=fraction, seed=seed) for seed in (0, 0, 1))
    assert first.sum() == other.sum() == size and np.array_equal(first, again)
    assert samples == 3 or not np.array_equal(first, other)


def test_every_sample_is_in_as_often_as_the_fraction_says_and_levels_nest():
    drawn = np.stack([members(fraction=0.7, seed=seed) for seed in range(400)])
    assert abs(drawn.mean(0) - 0.7).max() < 4 * np.sqrt(0.21 / 400)
    together = (drawn[:, :1] & drawn[:, 1:]).mean(0)
    assert abs(together - 0.7 * 69 / 99).max() < 4 * np.sqrt(0.25 / 400)
    assert (members(fraction=0.3) <= members(fraction=0.7)).all()
    # a pure function: these are the samples of seed 0, for good
    assert np.flatnonzero(members(20, fraction=0.25)).tolist() == [6, 13, 15, 16, 19]


def test_samples_that_are_left_out_beforehand(tmp_path):
    np.save(tmp_path / "out.npy", np.arange(0, 100, 2))
    out = {"without": str(tmp_path / "out.npy")}
    assert np.flatnonzero(members(**out)).tolist() == list(range(1, 100, 2))
    half = members(**out, fraction=0.5, seed=1)
    assert half.sum() == 25 and not half[::2].any()
    assert members() is None


@pytest.mark.parametrize(
    ("setting", "content", "text"),
    [
        ("fraction=0", None, "data.subset.fraction=0.0 must be above 0 and at most 1"),
        ("fraction=1.5", None, "data.subset.fraction=1.5 must be above 0 and at most 1"),
        ("fraction=0.001", None, "data.subset.fraction=0.001 of 100 training samples is none"),
        ("fraction=0.2", None, "data.batch_size=30 is larger than the 20 samples to train on"),
        ("seed=-1", None, "data.subset.seed=-1 must be at least 0"),
        ("folds=2", None, "data.subset.folds and data.subset.fraction choose samples each in its own way"),
        ("without=missing.npy", None, "data.subset.without=missing.npy cannot be read (No such file or directory)"),
        ("without=.", None, "data.subset.without=. cannot be read"),
        ("without=out.npy", b"1,2,3", "data.subset.without=out.npy is no array of numpy.save"),
        ("without=out.npy", np.array([1, {}], object), "data.subset.without=out.npy is no array of numpy.save"),
        ("without=out.npy", np.array([0.5]), "data.subset.without=out.npy holds float64 (1,); it must hold whole"),
        ("without=out.npy", np.array([[1]]), "data.subset.without=out.npy holds int64 (1, 1)"),
        ("without=out.npy", np.array([3, 100]), "data.subset.without=out.npy names sample 100, and there are 100"),
        ("without=out.npy", np.array([-1]), "data.subset.without=out.npy names sample -1, and there are 100"),
        ("without=out.npy", np.arange(100), "data.subset.without=out.npy leaves out all of the 100 training samples"),
    ],
)
def test_a_subset_that_cannot_be(setting, content, text, tmp_path, capsys):
    if isinstance(content, bytes):
        (tmp_path / "out.npy").write_bytes(content)
    elif content is not None:
        np.save(tmp_path / "out.npy", content, allow_pickle=True)
    assert cli.main(["train", "recipe=quickstart", *PART, f"data.subset.{setting}", "run.dir=run"]) == 2
    said = capsys.readouterr().err
    assert text in said and "Traceback" not in said


# ---------------------------------------------------------------- who is trained on and measured


@pytest.mark.parametrize("backend", tuple(BACKENDS))
def test_members_alone_are_trained_on_each_once_an_epoch(backend, tmp_path):
    importorskip_backend(backend)
    seen, wanted = Seen(), np.flatnonzero(members(fraction=0.6, seed=3)).tolist()
    summary = run(tmp_path / "run", f"data.backend={backend}", "train.epochs=2", watchers=[seen])
    assert [sorted(epoch) for epoch in seen.epochs] == [wanted, wanted, []] and seen.epochs[0] != seen.epochs[1]
    assert summary.members == 60 and summary.steps == 4
    assert (
        lines(tmp_path / "run", "left_out_top1_percent").keys() == lines(tmp_path / "run", "train_top1_percent").keys()
    )


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_the_members(world_size):
    rows = np.flatnonzero(members(fraction=0.6, seed=3))
    parts = [Sampler(60, 30, 0, True, rank, world_size, rows=rows).batches() for rank in range(world_size)]
    assert sorted(np.concatenate([row for part in parts for row in part])) == rows.tolist()


def test_a_run_that_is_stopped_goes_on_with_the_same_samples(tmp_path):
    run(tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(tmp_path / "parts", watchers=[StopAfter(3)])
    run(tmp_path / "parts", resume=True)
    assert same_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_a_file_of_samples_that_has_changed_is_noticed(tmp_path):
    np.save("out.npy", np.arange(5))
    without = ["data.subset.without=out.npy"]
    with pytest.raises(SystemExit):
        run(tmp_path / "run", *without, watchers=[StopAfter(2)])
    np.save("out.npy", np.arange(6, 11))
    with pytest.raises(UserError, match="trained on other samples: data.subset.without=out.npy has changed since"):
        run(tmp_path / "run", *without, resume=True)


# ---------------------------------------------------------------- what a run says at its end


def test_predictions_are_what_the_evaluation_counted(tmp_path):
    folder = tmp_path / "run"
    summary = run(folder, "train.predictions=true")
    path = folder / "predictions.parquet"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == summary.predictions_sha256
    training, test = predictions.read(folder, summary)
    inside = members(fraction=0.6, seed=3)
    assert np.array_equal(training.member, inside) and not test.member.any()
    assert (len(training.margin), len(test.margin)) == (100, 30) and training.margin.dtype == np.float16
    for part, given, true in (
        (inside, summary.train_top1, summary.train_top1_true_labels),
        (~inside, summary.left_out_top1, summary.left_out_top1_true_labels),
    ):
        assert 100 * training.correct_given[part].mean() == pytest.approx(given)
        assert 100 * training.correct_true[part].mean() == pytest.approx(true)
    assert 100 * test.correct_given.mean() == pytest.approx(summary.test_top1)
    assert np.array_equal(test.correct_given, test.correct_true)
    for part in (training, test):
        assert np.array_equal(part.margin > 0, part.correct_given)
    table = pq.read_table(path)
    assert table.column_names == ["train", "index", "member", "correct_given", "correct_true", "margin"]
    assert table["index"].to_pylist() == [*range(100), *range(30)]
    # The same from a run that was stopped, and from two processes.
    with pytest.raises(SystemExit):
        run(tmp_path / "stopped", "train.predictions=true", watchers=[StopAfter(8)])
    assert not (tmp_path / "stopped" / path.name).exists()
    assert run(tmp_path / "stopped", "train.predictions=true", resume=True) and (
        (tmp_path / "stopped" / path.name).read_bytes() == path.read_bytes()
    )
    settings = [*PART, "train.predictions=true", "model.dropout=0", "data.eval_batch_size=17"]
    copies.train(*settings, f"run.dir={tmp_path / 'two'}", processes=2)
    alone = run(tmp_path / "one", *settings[-3:])
    for one, two in zip(
        predictions.read(tmp_path / "one", alone),
        predictions.read(tmp_path / "two", Summary.read(tmp_path / "two")),
        strict=True,
    ):
        assert np.array_equal(one.member, two.member)
        assert np.allclose(one.margin.astype(float), two.margin.astype(float), atol=0.01)


@pytest.mark.parametrize("damage, text", [(lambda path: path.unlink(), "cannot be read"), (
    lambda path: path.write_bytes(path.read_bytes()[:-1]), "is not what its run wrote")])  # fmt: skip
def test_damaged_predictions_are_noticed(damage, text, tmp_path):
    summary = run(tmp_path / "run", "train.predictions=true", "train.epochs=1")
    damage(tmp_path / "run" / "predictions.parquet")
    with pytest.raises(UserError, match=f"predictions.parquet {text}.*delete .*run and train it again"):
        predictions.read(tmp_path / "run", summary)


def test_margins_beyond_float16_and_signs(tmp_path):
    found = np.ones(2, bool), np.zeros(2, bool), np.array([1e9, -1e9], np.float32)
    digest = predictions.write(tmp_path, {"train": found}, None)
    summary = type("Said", (), {"predictions_sha256": digest})
    training, test = predictions.read(tmp_path, summary)
    assert training.margin.tolist() == [65504, -65504] and len(test.margin) == 0 and training.member.all()
    with pytest.raises(UserError, match="train.predictions=true compares with true labels"):
        load("rademacher", ["train.predictions=true"])
