"""fastgen memorization: networks that are trained once, estimates that are theirs, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastgen import cli
from fastgen.memorization import networks
from fastgen.memorization.estimates import memorization
from fastgen.memorization.networks import Asked, collect
from fastgen.memorization.page import Shown
from fastgen.memorization.removal import MEMORISED, RANDOM, removals
from fastgen.recipe.load import load, stored
from fastgen.report.page import Page
from fastgen.sets import bake_recipe
from fastgen.sweeps.executor import found_jobs

N = 120
SETTINGS = [
    "recipe=quickstart", f"data.limit={N}", "data.limit_test=30", "data.batch_size=20", "train.epochs=6",
    "train.evaluate_epochs=6", "train.stop_at_interpolation=false", "data.labels.kind=symmetric", "data.labels.p=0.1",
    "model.name=fastgen_mlp_1x512", "train.threads=1",
]  # fmt: skip
OPTIONS = ["--networks", "4", "--fraction", "0.6", "--fractions", "0.4,0.6", "--removal", "0.4", "--seeds", "1"]


def command(folder, *more) -> int:
    return cli.main(["memorization", *SETTINGS, *OPTIONS, "--matrix", "--output", str(folder), "--jobs", "2", *more])


def estimates(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("samples.parquet", "influence.parquet", "influence.npy")}


def finished(folder) -> dict[str, float]:
    return {path.parent.name: path.stat().st_mtime for path in folder.glob("runs/*/summary.json")}


@pytest.fixture(scope="module")
def made(tmp_path_factory, cache):
    """A whole command, of which one network failed at first."""
    folder = tmp_path_factory.mktemp("memorization") / "out"
    asked = Asked.parse(SETTINGS)
    failing = folder / "runs" / asked.on_subsets(0.6, 4)[1].folder_name
    failing.mkdir(parents=True)
    (failing / "recipe.yaml").write_text("recipe: quickstart\nseed: 77\n")  # another run's folder
    with pytest.raises(SystemExit) as ended:
        command(folder)
    assert ended.value.code == 1
    first = pq.read_table(folder / "samples.parquet")
    before = finished(folder)
    assert (first["networks_in"].to_numpy() + first["networks_out"].to_numpy() == 3).all() and len(before) == 7
    shutil.rmtree(failing)
    assert command(folder) == 0
    after = finished(folder)
    assert before.items() <= after.items()  # no finished network ran again
    return folder


def test_the_tables_are_the_estimates_of_what_the_networks_said(made):
    asked = Asked.parse(SETTINGS)
    said, other = (collect(found_jobs(asked.on_subsets(f, 4), made / "runs"), N, 30) for f in (0.6, 0.4))
    assert (said.member.sum(1) == 72).all() and (other.member.sum(1) == 48).all() and said.correct_test.shape == (4, 30)
    found = memorization(said.member, said.correct)
    table = pq.read_table(made / "samples.parquet")
    baked = bake_recipe(asked.point().load()).splits["train"].columns
    order = np.argsort(baked["index"])
    assert table["true_label"].to_numpy().tolist() == baked["clean_label"][order].tolist()
    column = asked.point().load().data.labels.column_name
    assert table["given_label"].to_numpy().tolist() == baked[column][order].tolist()
    unknown = np.isnan(found.value)
    assert unknown.any() and table["memorization"].null_count == table["standard_error"].null_count == unknown.sum()
    assert np.array_equal(table["memorization"].to_numpy(), found.value, equal_nan=True)
    assert table["networks_in"].to_numpy().tolist() == said.member.sum(0).tolist()
    c_score = (found.accuracy_outside + memorization(other.member, other.correct).accuracy_outside) / 2
    assert np.array_equal(table["c_score"].to_numpy(), c_score, equal_nan=True)
    assert {"accuracy_out_at_0.4", "accuracy_out_at_0.6"} <= set(table.column_names)
    assert table["true_class"].to_pylist() == [str(label) for label in table["true_label"].to_pylist()]
    pairs, matrix = pq.read_table(made / "influence.parquet").to_pydict(), np.load(made / "influence.npy")
    assert matrix.shape == (N, 30) and np.isnan(matrix[unknown]).all() and not np.isnan(matrix[~unknown]).any()
    assert len(pairs["influence"]) == 20 * 30
    assert np.array_equal(np.float16(pairs["influence"]), matrix[pairs["train_index"], pairs["test_index"]])
    assert pairs["influence"][0] == np.nanmax(matrix[:, 0].astype(np.float32)).astype(np.float16)


def test_what_is_left_on_the_disk(made):
    runs = [path for path in (made / "runs").iterdir() if (path / "recipe.yaml").exists()]
    assert len(runs) == 2 * 4 + 3 and not list(made.glob("runs/*/checkpoints"))
    page = (made / "memorization.html").read_text()
    assert len(page) < 5e6 and page.count("<figure id=") == 3 and page.count("<img src=") >= 2
    assert "fastgen memorization recipe=quickstart" in page and "as many random ones" in page
    written = (made / "memorization.md").read_text()
    assert re.search(r"^\| 0.4 +\| \d+ \(\d+.\d %\) +\| \d+.\d\d ", written, re.M), written
    assert (
        "influence.parquet, influence.npy and all runs" in written and "networks on 0.4 of the samples | 4" in written
    )
    (made_without,) = made.glob("removed/*.npy")
    value = pq.read_table(made / "samples.parquet")["memorization"].to_numpy()
    assert np.array_equal(np.load(made_without), np.flatnonzero(value >= 0.4))
    summaries = [json.loads((path / "summary.json").read_text())["members"] for path in runs]
    assert sorted(summaries) == sorted([48] * 4 + [72] * 4 + [N] + [N - len(np.load(made_without))] * 2)


def test_repeated_it_trains_nothing_and_gives_the_same_bits(made, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    before, runs, page = estimates(made), finished(made), (made / "memorization.html").read_text()
    (made / "samples.parquet").unlink()  # killed before it was written
    assert command(made, "--wandb") == 0
    assert estimates(made) == before and finished(made) == runs
    assert (made / "memorization.html").read_text().replace(" --wandb", "") == page
    assert len(list(made.glob("wandb/offline-run-*"))) == 1 and not list(made.glob("runs/*/wandb"))


def test_counts_are_whole_and_estimates_short():
    page = Page("a set")
    Shown({"samples": 60_000, "error": 0.0123456, "none": None}, {}, {}).onto(page)
    assert page.tables == [(["", ""], [["samples", "60,000"], ["error", "0.01235"], ["none", "-"]])]


def test_damage_and_results_of_before(made, tmp_path, monkeypatch, capsys):
    """A network whose predictions are damaged has failed, and what this command does not write does not stay."""
    folder = tmp_path / "copied"
    shutil.copytree(made, folder)
    points = Asked.parse(SETTINGS).on_subsets(0.6, 4)
    damaged, lost, third = (folder / "runs" / point.folder_name for point in points[:3])
    (damaged / "predictions.parquet").write_bytes(b"half")
    (third / "summary.json").write_bytes(b"half")
    (lost / "predictions.parquet").unlink()
    runs = finished(folder)
    monkeypatch.chdir(tmp_path)
    options = [word for word in OPTIONS if word != "0.4,0.6"]
    options.remove("--fractions")
    with pytest.raises(SystemExit) as ended:
        cli.main(["memorization", *SETTINGS, *options, "--output", "copied"])
    said = capsys.readouterr().err
    assert ended.value.code == 1 and finished(folder) == runs
    assert said.count("train it again") == 2 and damaged.name in said and lost.name in said
    assert f"{third.name}/summary.json is damaged" in said and "delete it and resume" in said
    table = pq.read_table(folder / "samples.parquet")
    assert (table["networks_in"].to_numpy() + table["networks_out"].to_numpy() == 1).all()
    assert (folder / "influence.parquet").exists() and not (folder / "influence.npy").exists()
    assert "as networks have failed" in (folder / "memorization.md").read_text()


def test_a_folder_of_ones_own_without_a_test_split(tmp_path, capsys):
    for number in range(40):
        path = tmp_path / "photos" / "train" / f"Ä{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 6 * number, np.uint8)).save(path)
    own = [*SETTINGS[3:7], "recipe=quickstart", "data.source=imagefolder", f"data.root={tmp_path / 'photos'}"]
    own += ["--networks", "2", "--jobs", "1", "--output", str(tmp_path / "out")]
    for option in (["--matrix"], ["--removal", "0.5"]):
        assert cli.main(["memorization", *own, *option]) == 2
        assert f"{option[0]} " in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert cli.main(["memorization", *own]) == 0
    table = pq.read_table(tmp_path / "out" / "samples.parquet")
    assert set(table["given_class"].to_pylist()) == {"Ä0", "Ä1"}
    assert sorted(table["sample"].to_pylist()) == sorted(map(str, (tmp_path / "photos").rglob("*.png")))
    said = (tmp_path / "out" / "memorization.md").read_text()
    assert "samples.parquet and all runs" in said and "influence" not in said and "photos/train/Ä0/" in said


def test_networks_have_their_own_seeds_and_subsets():
    asked = Asked.parse([*SETTINGS, "seed=100"])
    recipes = [point.load() for point in asked.on_subsets(0.7, 3)]
    assert [(r.seed, r.data.subset.seed) for r in recipes] == [(100, 100), (101, 101), (102, 102)]
    assert {r.data.subset.fraction for r in recipes} == {0.7} and all(r.train.predictions for r in recipes)
    assert len({r.data.labels.column_name for r in recipes}) == 1


def test_removals_leave_out_as_many_at_random(tmp_path, monkeypatch):
    value = np.array([0.9, np.nan, 0.5, 0.1] * (N // 4))
    asked = Asked.parse(SETTINGS)
    none, high, low = removals(asked, value, [0.5, 0.8], 2, tmp_path)
    assert (none.removed, high.removed, low.removed) == (0, N // 4, N // 2)
    assert none.points[MEMORISED] == none.points[RANDOM] and len(none.points[RANDOM]) == 2
    labels = np.zeros(N, int)
    for one in (high, low):
        masks = [point.load().data.subset.members(labels) for point in one.points[MEMORISED]]
        assert all(np.array_equal(mask, ~(value >= one.threshold)) for mask in masks)
        random = [point.load().data.subset.members(labels) for point in one.points[RANDOM]]
        assert [mask.sum() for mask in random] == [N - one.removed] * 2 and not np.array_equal(*random)
    # the same samples have the same file, others another one
    again = removals(asked, value, [0.5, 0.8], 2, tmp_path)
    assert again == [none, high, low] and len(list((tmp_path / "removed").iterdir())) == 2
    monkeypatch.chdir(tmp_path)  # however the folder is named
    assert removals(asked, value, [0.5, 0.8, 0.8], 2, Path()) == again


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["seed=1"], "name one recipe: fastgen memorization recipe=NAME"),
        (["recipe=quickstart", "run.dir=x"], "run.dir=x is chosen for each network; seed=S is where their seeds begin"),
        (["recipe=quickstart", "data.subset.seed=3"], "data.subset.seed=3 is chosen for each network"),
        (["recipe=quickstart", "train.predictions=false"], "train.predictions=false is chosen for each network"),
        (["recipe=quickstart", "data.limt=3"], "data.limit"),
        (["recipe=rademacher"], "the labels of this recipe are random signs"),
        (["recipe=quickstart", "--fraction", "1"], "a fraction of 1 leaves no network without a sample"),
        (["recipe=quickstart", "--fractions", "0.5,0"], "a fraction of 0 leaves no network without a sample"),
        (["recipe=quickstart", "--fractions", "half"], "--fractions=half must be numbers, such as 0.1,0.3,0.5"),
        (["recipe=quickstart", "--removal", "10"], "--removal=10 is a threshold of memorization"),
        (["recipe=quickstart", "--networks", "0"], "--networks"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(arguments, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["memorization", *arguments]) == 2
    said = capsys.readouterr().err
    assert text in said and "Traceback" not in said and list(tmp_path.iterdir()) == []


def test_a_subset_too_small_for_a_batch_is_told(tmp_path, capsys):
    load("quickstart", SETTINGS[1:])
    assert cli.main(["memorization", *SETTINGS, "--fraction", "0.1", "--networks", "1", "--output", str(tmp_path)]) == 2
    assert "data.batch_size=20 is larger than the 12 samples to train on" in capsys.readouterr().err


def test_estimates_are_not_written_over_by_those_of_others(made, capsys):
    """The same settings in other words and another order are the same."""
    before, runs = estimates(made), finished(made)
    other = ["memorization", *SETTINGS, *OPTIONS, "--matrix", "--jobs", "2", "--output", str(made)]
    for more, said in (("data.labels.p=0.2", "data.labels.p=0.1, not 0.2"), ("seed=1", "seed=0, not 1")):
        words = [word for word in other if not word.startswith(more.split("=")[0])]
        assert cli.main([*words, more]) == 2
        assert f"{made} has the estimates for {said}; name another folder" in capsys.readouterr().err
    (made / "recipe.of_all.yaml").write_text("x: [")  # damaged
    assert cli.main(other) == 2 and "recipe.of_all.yaml" in capsys.readouterr().err
    (made / "recipe.of_all.yaml").unlink()
    Asked.parse(SETTINGS).claim(made)
    assert estimates(made) == before and finished(made) == runs
    same = [word.replace("data.labels.p=0.1", "data.labels.p=0.10") for word in (*other[:2], *reversed(SETTINGS[1:]))]
    Asked.parse(same[1:]).claim(made)


@pytest.mark.parametrize("estimated", [False, True])
def test_a_command_that_another_overtakes_says_whose_its_estimates_are(estimated, made, tmp_path, monkeypatch, capsys):
    """estimated: the other one has ended."""
    folder, train = tmp_path / "out", networks.train
    shutil.copytree(made, folder)
    (folder / "samples.parquet").rename(folder / "kept")

    def overtaken(*arguments):
        monkeypatch.setattr(networks, "train", train)  # the removal's networks come after
        Asked.parse([*SETTINGS, "seed=1"]).claim(folder)
        if estimated:
            (folder / "kept").rename(folder / "samples.parquet")
        return train(*arguments)

    monkeypatch.setattr(networks, "train", overtaken)
    assert command(folder) == (2 if estimated else 0)
    assert stored(folder / "recipe.of_all.yaml")["seed"] == (1 if estimated else 0)
    assert ("has the estimates for seed=1, not 0" in capsys.readouterr().err) == estimated


def test_networks_are_evaluated_at_their_end():
    """Unless they may end before. What is asked for on the command line is done."""
    asked = ["recipe=quickstart", "train.epochs=7", "train.stop_at_interpolation=false"]
    assert Asked.parse([*asked, "train.evaluate_train_epochs=3"]).one_of_many().load().train.evaluate_epochs == 7
    assert Asked.parse([*asked, "train.evaluate_epochs=2"]).one_of_many().load().train.evaluate_epochs == 2
    of_recipe = Asked.parse(asked[:2])  # it may end at any of them
    assert of_recipe.one_of_many().load().train.evaluate_epochs == of_recipe.point().load().train.evaluate_epochs == 5


def test_a_mistake_does_not_keep_the_folder(tmp_path):
    Asked.parse(["recipe=quickstart", "train.precision=fp16"]).claim(tmp_path)  # where nothing can be trained
    Asked.parse(["recipe=quickstart"]).claim(tmp_path)
    assert "fp16" not in (tmp_path / "recipe.of_all.yaml").read_text()
