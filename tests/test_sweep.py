"""Sweeps: the grid, points that are never repeated, points that fail, and a sweep that is killed."""

import csv
import itertools
import json
import os
import subprocess
import sys
import time

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args, make_launch_sweep_entrypoint
from whole_runs import ROOT, a_summary

from fastgen import cli
from fastgen.recipe.load import load, parse
from fastgen.runs.folder import decisive_settings
from fastgen.runs.metrics import read_metrics
from fastgen.sweeps.executor import DONE, FAILED, Job, _finish, run_points
from fastgen.sweeps.grid import Grid, Point
from fastgen.sweeps.sweep import LiveTable, wandb_sweep
from pipelines.errors import UserError

TINY = ("data.limit=64", "data.limit_test=16", "data.batch_size=32", "train.epochs=2", "model.name=fastgen_mlp_1x512")


def test_points_are_all_combinations_in_order():
    grid = Grid.parse(["recipe=quickstart", "data.labels.p=0.0,0.5", "data.labels.kind=partial", "seed=0,1"])
    assert [tuple(grid.label(point).values()) for point in grid.points] == [
        ("0.0", "0"), ("0.0", "1"), ("0.5", "0"), ("0.5", "1")
    ]  # fmt: skip
    assert all("data.labels.kind=partial" in point.settings for point in grid.points)
    assert len({point.folder_name for point in grid.points}) == 4
    # Commas of lists belong to one value.
    areas = Grid.parse(["recipe=quickstart", "data.view.area=[0.1,1.0],[0.5,1.0]", "track.tags=[a,b]"])
    assert areas.varied == {"data.view.area": ["[0.1,1.0]", "[0.5,1.0]"]} and areas.fixed == ("track.tags=[a,b]",)
    assert len(Grid.parse(["recipe=quickstart"]).points) == 1


def test_equal_experiments_are_one_point():
    grid = Grid.parse(["recipe=quickstart", "data.labels.kind=true,random", "data.labels.seed=0,1"])
    assert [tuple(grid.label(point).values()) for point in grid.points] == [
        ("true", "0"), ("random", "0"), ("random", "1")
    ]  # fmt: skip
    written = [("kind=partial", "p=0.4"), ("kind=random", "p=0.40")]
    written = [tuple(f"data.labels.{setting}" for setting in settings) for settings in written]
    assert len({Point("quickstart", settings).folder_name for settings in written}) == 1
    same = [("seed=1", "optim.lr=0.1"), ("optim.lr=0.10", "seed=1"), ("seed=1", "optim.lr=0.1", "track.log_steps=7")]
    assert len({Point("quickstart", settings).folder_name for settings in same}) == 1
    other = [("seed=2",), ("seed=1", "train.epochs=7"), ("seed=1", "data.limit=5"), ("seed=1", "train.max_steps=3")]
    assert len({Point("quickstart", settings).folder_name for settings in [*other, ("seed=1",)]}) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=0,1"], "name a recipe"),
        (["recipe=quickstart,other"], "one recipe"),
        (["recipe=quickstart", "seed"], "'seed' is no setting"),
        (["recipe=quickstart", "seed=0,,1"], "empty value"),
        (["recipe=quickstart", "run.dir=here"], "run.dir is chosen by the sweep"),
        (["recipe=quickstart", "seed=0,1", "seed=2,3"], "seed is given twice"),
        (["recipe=quickstart", "seed=0,1", "seed=2"], "seed is given twice"),
        (
            [
                "recipe=quickstart",
                *(f"{key}={','.join(map(str, range(1, 40)))}" for key in ("seed", "data.limit", "train.epochs")),
            ],
            "59,319 points",
        ),
        (["recipe=quickstart", "seed=0,0"], "the same point twice: seed=0"),
        (["recipe=quickstart", "sed=0,1"], "did you mean 'seed'"),
        (["recipe=quickstart", "optim.name=sgd,adm"], "did you mean 'adamw'"),
        (["recipe=quickstart", "seed=0,1", "--jobs", "0"], "Invalid value for '--jobs'"),
        (["recipe=quickstart", "seed=0,1", "--job", "2"], "did you mean --jobs or --on?"),
        (["recipe=quickstart", "seed=0,1", "--output"], "Option '--output' requires an argument"),
    ],
)
def test_mistakes_are_told_before_anything_runs(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_lines_without_a_terminal_say_what_their_numbers_are(tmp_path, capsys):
    jobs = [Job(Point("quickstart"), tmp_path / name, state) for name, state in (("a", DONE), ("b", FAILED))]
    jobs[0].folder.mkdir()
    a_summary(train_top1=100.0, test_top1=95.5, epochs=12.0, fitted_epoch=7.5).write(jobs[0].folder)
    jobs[1].problem = "fastgen: no room"
    LiveTable(["seed"], lambda job: [job.folder.name]).show(jobs)
    assert capsys.readouterr().out.splitlines() == [
        "done seed=a, epoch 12, training 100.00 %, test 95.50 %, fitted at epoch 7.5",
        "failed seed=b, fastgen: no room",
    ]


def test_the_wandb_file_is_the_same_grid(tmp_path, capsys):
    """Each point's command, made as W&B's agent makes it, is that point for `fastgen train`."""
    varied = {
        "data.labels.p": ["0.0", "0.5", "null"], "train.compile": ["true", "null"],
        "optim.weight_decay": ["1e-3", "5e-4"], "data.normalize.mean": ["[0.5]", "[1,2,3]"],
    }  # fmt: skip
    arguments = ["recipe=quickstart", "data.labels.kind=random", *(f"{k}={','.join(v)}" for k, v in varied.items())]
    path = tmp_path / "sweep.yaml"
    assert cli.main(["sweep", *arguments, "--wandb-file", str(path)]) == 0
    assert "wandb agent" in capsys.readouterr().out
    sweep = yaml.safe_load(path.read_text())
    assert path.read_text() == wandb_sweep(Grid.parse(arguments))
    assert sweep["method"] == "grid"
    choices = [[(key, value) for value in parameter["values"]] for key, parameter in sweep["parameters"].items()]
    assert choices == [[(key, value) for value in values] for key, values in varied.items()]
    recipes = []
    for point in itertools.product(*choices):
        made = create_sweep_command_args({"args": {key: {"value": value} for key, value in point}})
        (entry, arguments), python = (
            make_launch_sweep_entrypoint(made, sweep["command"]),
            ["python", "-m", "fastgen.cli"],
        )
        assert entry[:4] == ["${env}", *python] and entry[4] == "train" and "track.wandb=online" in entry
        recipes.append(parse([*entry[5:], *arguments]))
    assert [decisive_settings(recipe) for recipe in recipes] == [
        decisive_settings(load("quickstart", ["data.labels.kind=random", *(f"{k}={v}" for k, v in point)]))
        for point in itertools.product(*choices)
    ]
    assert len(recipes) == 24 and {recipe.train.compile for recipe in recipes} == {True, None}


def test_a_killed_sweep_repeats_nothing_and_failures_do_not_end_it(tmp_path, capfd):
    """Three points: done before the sweep is killed, running then, diverging later."""
    root, rates = tmp_path / "sweep", ("0.1", "0.05", "1e30")
    settings = ["recipe=quickstart", *TINY, "train.epochs=150", "train.evaluate_epochs=150", "optim.name=sgd"]
    settings += ["train.stop_at_interpolation=false", f"optim.lr={','.join(rates)}", "track.log_steps=1"]
    arguments = ["sweep", *settings, "--jobs", "1", "--output", str(root)]
    done, running, _ = (root / point.folder_name for point in Grid.parse(settings).points)
    sweep = subprocess.Popen([sys.executable, "-m", "fastgen.cli", *arguments], cwd=ROOT)
    while not ((running / "metrics.jsonl").is_file() and (running / "metrics.jsonl").stat().st_size):
        assert sweep.poll() is None
        time.sleep(0.02)
    sweep.kill()
    sweep.wait()
    before = (done / "summary.json").stat().st_mtime_ns
    # What it left behind ends by itself, with a checkpoint; the second sweep waits for that.
    with pytest.raises(SystemExit, match="1"):
        cli.main(arguments)
    assert (done / "summary.json").stat().st_mtime_ns == before
    log = (root / "logs" / f"{running.name}.txt").read_text()
    assert log.count("quickstart in ") == 2 and "interrupted after" in log
    steps = [line["step"] for line in read_metrics(running) if "learning_rate" in line]
    assert steps == list(range(1, 301))  # no step is missing, none was logged twice
    said = capfd.readouterr()
    assert "diverged" in said.err and "2 of 3 points done" in said.out
    assert f"what they did: fastgen report {root}\n" in said.out
    with open(root / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["optim.lr"], line["state"]) for line in lines] == [*zip(rates, (DONE, DONE, FAILED), strict=True)]
    summary = json.loads((done / "summary.json").read_text())
    assert float(lines[0]["train_top1"]) == summary["train_top1"] and lines[0]["run_dir"] == str(done)


def test_points_whose_data_are_missing_do_not_end_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGEN_DATA", str(tmp_path / "nothing"))
    there = Point("quickstart", ("train.max_steps=1",))
    missing = Point("imagenet_inception_true")
    jobs = run_points([missing, there], tmp_path / "runs", 1)
    assert [job.state for job in jobs] == [FAILED, DONE] and "ImageNet" in jobs[0].problem
    assert "ImageNet" in jobs[0].log.read_text()
    with pytest.raises(UserError, match="ImageNet"):  # nothing is left to run
        run_points([missing], tmp_path / "other", 1)


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        ("", "exit code 1"),
        ("quickstart in x\nfastgen: no room\n", "fastgen: no room"),
        (  # as it ends
            "wandb: Tracking run\nfastgen: no room\n\x1b[1;34mwandb\x1b[0m: \n"
            "\x1b[1;34mwandb\x1b[0m: \x1b[1mwandb sync x/wandb/offline-run-1\x1b[0m\n",
            "fastgen: no room",
        ),
        ("wandb: ERROR Run initialization has timed out\n", "wandb: ERROR Run initialization has timed out"),
        ("    raise CommError(x)\nwandb.errors.CommError: No network\n", "wandb.errors.CommError: No network"),
    ],
)
def test_a_failed_point_says_why(log, problem, tmp_path):
    job = Job(Point("quickstart", ()), tmp_path / "run")
    job.log.parent.mkdir()
    job.log.write_text(log)
    _finish(job, 1)
    assert (job.state, job.problem) == (FAILED, problem)


def test_two_sweeps_do_not_share_a_folder(tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr("fastgen.sweeps.executor._LOCK_SECONDS", 0)
    handle = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another process is running points"):
        run_points([Point("quickstart", TINY)], tmp_path, 1)
    os.close(handle)
