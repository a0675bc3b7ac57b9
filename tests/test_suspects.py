"""fastgen suspects: planted labels are found, folds are trained once, and what is missing is named."""

import csv
import json
import sys
import types

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from whole_runs import fresh_accelerate  # noqa: F401

from fastgen import cli
from fastgen.owndata import ranking
from fastgen.owndata.ranking import Evidence, cleanlab_says, found_at, gather
from fastgen.recipe.load import load
from fastgen.training.loop import train
from pipelines.errors import UserError

NOISY = [
    "data.labels.kind=symmetric", "data.labels.p=0.1", "data.limit=600", "train.dynamics=true", "train.epochs=6",
    "train.stop_at_interpolation=false", "train.threads=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Digits, of which a tenth is labelled wrongly."""
    folder = tmp_path_factory.mktemp("suspects") / "run"
    train(load("quickstart", [*NOISY, f"run.dir={folder}"]))
    return folder


def lines(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_planted_labels_come_first(run_dir, capsys):
    assert cli.main(["suspects", str(run_dir), "--top", "20"]) == 0
    found = lines(run_dir / "suspects" / "suspects.csv")
    evidence = gather([run_dir])
    planted, percent = found_at(evidence)
    assert len(found) == 600 and [row["rank"] for row in found[:3]] == ["1", "2", "3"]
    wrong = (evidence.given != evidence.true)[[int(row["index"]) for row in found]]
    assert percent == pytest.approx(100 * wrong[:planted].mean()) and percent > 80
    told = capsys.readouterr().out
    assert f"{planted} labels were corrupted on purpose; so were {percent:.1f} %" in told
    assert "nearly all labels" not in told
    assert roc_auc_score(wrong, -np.arange(600)) > 0.95
    # what the network says of those is mostly the true label, which no training saw
    top = [row for row, bad in zip(found, wrong, strict=True) if bad][:30]
    right = [row["suggested_label"] == str(evidence.true[int(row["index"])]) for row in top]
    assert np.mean(right) > 0.8
    assert found[0]["sample"] == f"digits/train[{found[0]['index']}]"
    assert Image.open(run_dir / "suspects" / "suspects.png").size == (768, 480)


def test_planted_labels_come_first_where_the_network_has_memorised_them(tmp_path, capsys):
    """Ten times as long: by the area under the margin, fewer than 85 % of them."""
    train(load("quickstart", [*NOISY, "train.epochs=60", "train.evaluate_epochs=60", f"run.dir={tmp_path / 'run'}"]))
    evidence = gather([tmp_path / "run"])
    wrong = evidence.given != evidence.true
    assert found_at(evidence)[1] > 88
    known = ~np.isnan(evidence.aum)
    areas = [roc_auc_score(wrong[known], -score[known]) for score in (evidence.bounded_margin, evidence.aum)]
    assert areas[0] > 0.99 > areas[1]
    assert cli.main(["suspects", str(tmp_path / "run")]) == 0
    assert "it agrees with nearly all labels" in capsys.readouterr().out


def test_folds_are_trained_once_and_say_more(run_dir, capsys, monkeypatch, tmp_path):
    command = ["suspects", str(run_dir), "--folds", "2", "--jobs", "1", "--output", str(tmp_path / "out")]
    assert cli.main(command) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "networks that never saw them call" in told and "done" in told
    folders = sorted((run_dir / "folds-2").glob("recipe-*"))
    assert len(folders) == 2
    summaries = [(folder / "summary.json").read_bytes() for folder in folders]
    assert all(json.loads(text)["left_out_top1_true_labels"] > 60 for text in summaries)
    assert cli.main(command) == 0
    assert [(folder / "summary.json").read_bytes() for folder in folders] == summaries
    evidence = gather([run_dir, *folders])
    assert evidence.out_of_sample and not np.isnan(evidence.probabilities).any()
    each = [gather([run]) for run in (run_dir, *folders)]
    for name in ("aum", "bounded_margin"):
        mean = np.nanmean([getattr(one, name) for one in each], 0)
        assert getattr(evidence, name) == pytest.approx(mean, abs=1e-9)
    assert found_at(evidence)[1] > 80
    assert len(lines(tmp_path / "out" / "suspects.csv")) == 600
    assert cli.main(["suspects", str(folders[0])]) == 2
    assert "is one of 2 folds; name the run that they are of" in capsys.readouterr().err


def made(**changes) -> Evidence:
    """Five samples of two classes."""
    values = {
        "given": np.array([0, 0, 1, 1, 1]),
        "true": np.array([0, 1, 1, 1, 0]),
        "aum": np.array([1.0, 3.0, -1.0, np.nan, 2.0]),
        "bounded_margin": np.array([0.95, 0.3, 0.9, np.nan, 0.6]),
        "probabilities": np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.5, 0.5], [0.7, 0.3]], np.float32),
        "out_of_sample": False,
    }
    return Evidence(**(values | changes))


def test_the_order_by_hand():
    assert made().order().tolist() == [1, 4, 2, 0]  # by the margin; of the fourth nothing is known
    # and by the given label's probability: 0.3 (4), 0.4 (1), 0.5 (3), 0.8 (2), 0.9 (0)
    assert made(out_of_sample=True).score == pytest.approx([1, 1 / 8, (2 / 3 + 3 / 4) / 2, 1 / 2, 1 / 6])
    assert made(out_of_sample=True).order().tolist() == [1, 4, 3, 2, 0]
    assert made().suggested.tolist() == [0, 1, 1, 0, 0]
    assert found_at(made()) == (2, 100.0)
    assert found_at(made(true=made().given)) is None
    nothing = made(probabilities=None)
    assert nothing.suggested.tolist() == nothing.given.tolist() and nothing.order().tolist() == [1, 4, 2, 0]


def test_cleanlab_is_asked_where_it_is_installed(monkeypatch):
    asked = {}
    for name in ("cleanlab", "cleanlab.filter", "cleanlab.rank"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    def issues(labels, probabilities, n_jobs):
        if len(labels) == 5:
            raise ValueError("too few")
        asked["labels"], asked["probabilities"] = labels, probabilities
        return np.array([False, True, False, True])

    sys.modules["cleanlab.filter"].find_label_issues = issues
    sys.modules["cleanlab.rank"].get_label_quality_scores = lambda labels, probabilities: np.arange(4) / 10
    monkeypatch.setattr(ranking.importlib.util, "find_spec", lambda name: name == "cleanlab")
    probabilities = made().probabilities.copy()
    probabilities[2] = np.nan
    found = cleanlab_says(made(probabilities=probabilities))
    assert asked["labels"].tolist() == [0, 0, 1, 1] and np.allclose(asked["probabilities"].sum(1), 1, atol=1e-12)
    assert found["cleanlab_issue"].tolist() == [False, True, False, False, True]
    assert np.allclose(found["cleanlab_quality"], [0, 0.1, np.nan, 0.2, 0.3], equal_nan=True)
    sys.modules["cleanlab.rank"].get_label_quality_scores = lambda labels, probabilities: np.arange(5) / 10
    with pytest.warns(UserWarning, match="cleanlab's scores are left out: too few"):
        assert cleanlab_says(made()) == {}
    monkeypatch.setattr(ranking.importlib.util, "find_spec", lambda name: None)
    assert cleanlab_says(made()) == {}


def test_what_is_missing_is_named(run_dir, tmp_path, capsys):
    plain = tmp_path / "plain"
    train(load("quickstart", ["data.limit=100", "train.epochs=1", "train.threads=1", f"run.dir={plain}"]))
    (tmp_path / "empty").mkdir()
    for arguments, text in (
        ([plain], "recorded no dynamics; train with train.dynamics=true, or add --folds 4"),
        ([tmp_path / "empty"], "is no run directory"),
        ([tmp_path / "nowhere"], "does not exist"),
        ([run_dir, "--folds", "1"], "--folds"),
        ([run_dir, "--output", run_dir / "recipe.yaml"], "recipe.yaml.* name another folder with --output"),
        ([plain, "--folds", "2"], "data.batch_size=64 is larger than the 50 samples to train on"),
        ([plain, "--folds", "101"], "data.subset.folds=101 is more than there are training samples"),
    ):
        assert cli.main(["suspects", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert text.split(".*")[0] in error and text.split(".*")[-1] in error, error
    with pytest.raises(UserError, match="was trained on other labels than"):
        other = tmp_path / "other"
        train(load("quickstart", [*NOISY, "data.labels.seed=1", "train.epochs=1", f"run.dir={other}"]))
        gather([run_dir, other])
