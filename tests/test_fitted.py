"""Whether the training set is fitted: looked up at few samples, and the same as whole evaluations say."""

import json
import os
import signal
from contextlib import contextmanager

import copies
import numpy as np
import pytest
from accelerate.state import AcceleratorState
from whole_runs import StopAfter, fresh_accelerate, importorskip_backend, same_weights, weights  # noqa: F401

from fastgen.recipe.load import load
from fastgen.runs.folder import RunLock
from fastgen.runs.metrics import read_metrics
from fastgen.runs.summary import Summary
from fastgen.training import checkpoints, loop
from fastgen.training.data import Data
from fastgen.training.loop import train
from fastgen.training.position import Position
from fastgen.training.prepare import prepare
from pipelines.backends import BACKENDS

# Fitted after about 60 epochs; many looks before are in vain.
TO_FIT = ["data.limit=400", "data.labels.kind=partial", "data.labels.p=0.2", "data.batch_size=40", "optim.lr=0.02"]
TO_FIT += ["data.eval_batch_size=30", "train.checks_per_epoch=5", "train.evaluate_epochs=1000", "train.precision=fp32"]
TO_FIT += ["train.threads=1"]
NEVER = lambda batch: False  # noqa: E731


@contextmanager
def opened(folder, *settings):
    with RunLock() as lock:
        run = prepare(load("quickstart", ["data.limit=200", f"run.dir={folder}", *settings]), lock, ())
        yield run
        run.metrics.close()


def looked_at(monkeypatch):
    """Which samples each evaluation goes through from now on."""
    seen, whole = [], Data.evaluation

    def evaluation(self, *arguments):
        seen.append([])
        for batch in whole(self, *arguments):
            seen[-1] += batch.index.tolist()
            yield batch

    monkeypatch.setattr(Data, "evaluation", evaluation)
    return seen


@pytest.mark.parametrize("backend", tuple(BACKENDS))
@pytest.mark.parametrize("subset", [[], ["data.subset.fraction=0.63"]], ids=["all", "subset"])
def test_a_look_says_what_an_evaluation_says(backend, subset, tmp_path):
    """At each accuracy that so many samples can have, at and beside it; the order of a look changes with the last."""
    importorskip_backend(backend)
    settings = ["data.eval_batch_size=7", f"data.backend={backend}", *subset]
    with opened(tmp_path / "run", *settings) as run:
        found, samples = run.evaluator.splits(NEVER).train_top1, len(run.data.parts["train"])
        assert 0 < found < 100
        right = round(found * samples / 100)
        levels = [100 * (right + more) / samples + aside for more in (-9, -1, 0, 1, 9) for aside in (-1e-9, 0, 1e-9)]
        for level in np.random.default_rng(0).permutation([0.1, 100, *levels, *levels]):
            assert run.evaluator.reaches(level, NEVER) == (found >= level), level
        assert run.evaluator.splits(NEVER).train_top1 == found and run.bare.training


def test_a_look_begins_with_what_was_wrong_and_ends_with_an_error_too_many(tmp_path, monkeypatch):
    with opened(tmp_path / "run", "data.eval_batch_size=5") as run:
        correct = run.evaluator.predictions("train")[0].numpy()
        seen = looked_at(monkeypatch)
        assert not run.evaluator.reaches(95, NEVER)  # 10 errors of 200 are allowed
        in_file = run.data.baked.splits["train"].columns["index"].tolist()
        assert len(seen[0]) < 60 and seen[0] == in_file[: len(seen[0])]
        assert (~correct[seen[0]]).sum() >= 11 > (~correct[seen[0][:-5]]).sum()
        wrong = [sample for sample in seen[0] if not correct[sample]]
        assert not run.evaluator.reaches(95, NEVER)
        assert seen[1][: len(wrong)] == wrong[: len(seen[1])] and len(seen[1]) == 15
        assert run.evaluator.reaches(1, NEVER) and sorted(seen[2]) == list(range(200))


def evaluations_are_whole(run):
    """Whether to evaluate, without any look: at each step at which there may be one."""
    position, settings = run.position, run.recipe.train
    if position.step in (0, position.evaluated_step):
        return False
    scheduled = position.step_in_epoch == 0 and position.epoch % settings.evaluate_epochs == 0
    if scheduled or position.step >= run.total_steps:
        return True
    return position.nearly and position.step_in_epoch % -(-position.steps_per_epoch // settings.checks_per_epoch) == 0


def said(folder):
    timed = ("wall_seconds", "images_per_second", "data_stall_fraction")
    return [{key: line[key] for key in line if key not in timed} for line in read_metrics(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that evaluates everything wherever another looks."""
    folder = tmp_path_factory.mktemp("fitted") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "wants_evaluation", evaluations_are_whole)
        AcceleratorState._reset_state(True)
        summary = train(load("quickstart", [*TO_FIT, f"run.dir={folder}"]))
    assert len(evaluated(folder)) > 8
    return folder, summary


def evaluated(folder):
    return [line for line in read_metrics(folder) if "train_top1_percent" in line]


def same_run(folder, summary, whole):
    """Of its evaluations, those in which an accuracy that counts was reached first, and none besides."""
    expected, firsts = whole[1], {*summary.first_epoch_at.values()}
    for key in ("steps", "first_epoch_at", "fitted_epoch", "interpolation_epoch", "train_loss", "test_top1"):
        assert getattr(summary, key) == getattr(expected, key)
    assert same_weights(weights(folder), weights(whole[0]))
    assert said(folder) == [
        line for line in said(whole[0]) if "train_top1_percent" not in line or line["epoch"] in firsts
    ]
    assert len(evaluated(folder)) == len(firsts)


def test_a_run_is_what_it_is_by_whole_evaluations(whole, tmp_path):
    summary = train(load("quickstart", [*TO_FIT, f"run.dir={tmp_path / 'run'}"]))
    same_run(tmp_path / "run", summary, whole)
    assert evaluated(tmp_path / "run")[-1]["epoch"] == summary.fitted_epoch


@pytest.mark.parametrize("before", [1, 2, 3, 6])
def test_resuming_among_the_looks(before, whole, tmp_path):
    folder, last = tmp_path / "run", whole[1].steps
    with pytest.raises(SystemExit):
        train(load("quickstart", [*TO_FIT, f"run.dir={folder}"]), [StopAfter(last - before)])
    AcceleratorState._reset_state(True)
    same_run(folder, train(load("quickstart", [*TO_FIT, f"run.dir={folder}", "run.resume=true"])), whole)


def test_a_signal_within_a_look(whole, tmp_path, monkeypatch):
    """It is obeyed there, and the continuation begins with this look."""
    folder, evaluation, looks = tmp_path / "run", Data.evaluation, []

    def signalled(self, name, rows=None):
        looks.extend([] if rows is None else [len(looks)])
        for number, batch in enumerate(evaluation(self, name, rows)):
            if len(looks) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                assert number == 0, "it goes on"
            yield batch

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(Data, "evaluation", signalled)
        train(load("quickstart", [*TO_FIT, f"run.dir={folder}"]))
    assert stopped.value.code == 128 + signal.SIGTERM and Summary.read(folder).status == "interrupted"
    position = json.loads((checkpoints.latest(folder / "checkpoints") / "position.json").read_text())
    assert (
        position["nearly"] and position["crossings"].keys() == {"99"} and position["evaluated_step"] < position["step"]
    )
    AcceleratorState._reset_state(True)
    same_run(folder, train(load("quickstart", [*TO_FIT, f"run.dir={folder}", "run.resume=true"])), whole)


def test_two_processes_look_together(whole, tmp_path):
    """At shares of batches that differ in size, of a last batch that one process has nothing of."""
    settings = [*TO_FIT, "data.eval_batch_size=57", f"run.dir={tmp_path / 'run'}"]  # 400 = 7 x 57 + 1
    copies.train(*settings, processes=2)
    found, expected = Summary.read(tmp_path / "run"), whole[1]
    assert found.processes == 2 and found.train_top1 == 100
    assert (found.first_epoch_at, found.steps) == (expected.first_epoch_at, expected.steps)


@pytest.mark.parametrize(
    "fitted_at, levels", [(100.0, [99, 99.9, 100]), (99.9, [99, 99.9]), (95.0, [95]), (99.5, [99, 99.5])]
)
def test_the_levels_that_count(fitted_at, levels):
    position, asked = Position(10), []
    while position.crossed(fitted_at) is None:
        asked.append(position.next_level(fitted_at))
        position.crossings[f"{asked[-1]:.12g}"] = 1.0
    assert asked == levels
