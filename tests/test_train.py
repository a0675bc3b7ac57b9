"""The training loop for real: every recipe, every backend, resume at every step, several processes, signals."""

import contextlib
import io
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from rich.console import Console
from wandb.proto import wandb_internal_pb2
from whole_runs import ROOT, SMALL, StopAfter, fresh_accelerate, importorskip_backend, lines, same_weights, weights  # noqa: F401

from fastgen import cli
from fastgen.optim.schedules import SCHEDULES, learning_rate
from fastgen.recipe.load import load
from fastgen.runs.metrics import read_metrics
from fastgen.runs.run import Run
from fastgen.runs.summary import Summary
from fastgen.training import checkpoints
from fastgen.training.data import Data
from fastgen.training.loop import train
from fastgen.training.position import Position
from fastgen.training.tracking import Display, start_wandb
from fastgen.training.watching import Watcher
from pipelines.backends import BACKENDS
from pipelines.errors import UserError


@pytest.mark.parametrize("backend", tuple(BACKENDS))
def test_backends_train_alike(backend, tmp_path):
    importorskip_backend(backend)
    train(load("quickstart", [*SMALL, f"data.backend={backend}", f"run.dir={tmp_path / backend}"]))
    AcceleratorState._reset_state(True)
    train(load("quickstart", [*SMALL, f"run.dir={tmp_path / 'reference'}"]))
    assert same_weights(weights(tmp_path / backend), weights(tmp_path / "reference"))


def test_it_memorises_and_says_so(tmp_path):
    """Random labels are fitted; every number of the summary fits the others."""
    settings = ["data.limit=300", "train.epochs=300", f"run.dir={tmp_path / 'run'}"]
    summary = train(load("quickstart", settings))
    assert summary.train_top1 == summary.train_top1_corrupted_part == summary.train_top1_clean_part == 100
    assert summary.interpolation_epoch == summary.fitted_epoch == summary.epochs < 300
    assert summary.first_epoch_at["99"] <= summary.first_epoch_at["99.9"] <= summary.first_epoch_at["100"]
    assert summary.first_epoch_at["100"] == summary.interpolation_epoch
    assert summary.train_top1_true_labels < 25 and summary.train_top1_corrupted_part_true_labels == 0
    assert summary.test_top1 <= summary.best_test_top1 < 40
    manifest = (tmp_path / "run" / "manifest.json").read_bytes()
    import hashlib

    assert hashlib.sha256(manifest).hexdigest() == summary.manifest_sha256


def test_fitted_is_what_the_recipe_says(tmp_path):
    """At 97 % the run ends at its first evaluation with that, and says which accuracies it crossed when."""
    settings = ["data.limit=300", "train.epochs=300", "train.fitted_at=97", f"run.dir={tmp_path / 'run'}"]
    summary = train(load("quickstart", settings))
    lines = [line for line in read_metrics(tmp_path / "run") if "train_top1_percent" in line]
    reached = [line["epoch"] for line in lines if line["train_top1_percent"] >= 97]
    assert summary.train_top1 >= 97 and [summary.fitted_epoch] == reached == [summary.epochs]
    for level, epoch in summary.first_epoch_at.items():
        assert epoch == next((line["epoch"] for line in lines if line["train_top1_percent"] >= float(level)), None)
    with pytest.raises(UserError, match="fitted_at=0"):
        load("quickstart", ["train.fitted_at=0"])


def test_partial_corruption_is_split_into_its_parts(tmp_path):
    settings = ["data.labels.kind=partial", "data.labels.p=0.4", "train.max_steps=30", f"run.dir={tmp_path / 'run'}"]
    summary = train(load("quickstart", settings))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())["splits"]["train"]
    changed = manifest["columns"]["random_0.4_s0"]["changed"]
    n = manifest["samples"]
    whole = ((n - changed) * summary.train_top1_clean_part + changed * summary.train_top1_corrupted_part) / n
    assert whole == pytest.approx(summary.train_top1)
    assert summary.train_top1_clean_part > summary.train_top1_corrupted_part


def test_seeds_differ_and_repeat(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        AcceleratorState._reset_state(True)
        train(load("quickstart", [*SMALL, f"seed={seed}", f"run.dir={tmp_path / name}"]))
    assert same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same_weights(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_accumulation_gives_the_same_losses(tmp_path):
    settings = [*SMALL, "model.dropout=0"]
    for name, more in (("whole", "train.accumulate=1"), ("parts", "train.accumulate=3")):
        AcceleratorState._reset_state(True)
        train(load("quickstart", [*settings, more, f"run.dir={tmp_path / name}"]))
    whole, parts = (lines(tmp_path / name, "train_running_loss_nats") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and len(whole) == 12
    assert np.allclose(list(whole.values()), list(parts.values()), rtol=1e-4)


# ---------------------------------------------------------------- stopping and resuming


# The state that ImageNet's recipes add to it: an average, RMSProp, random regions of other sizes from epoch to epoch.
LIKE_IMAGENET = [
    "optim.name=rmsprop", "optim.lr=0.01", "optim.clip=1.0", "optim.decay_on=weights", "optim.weight_decay=0.01",
    "train.ema=0.9", "train.label_smoothing=0.1", "data.augment.random_crop=false", "data.view.fraction=0.9",
    "data.view.random=tensorflow", "model.name=resnet10t", "data.image_size=64", "data.progressive.start_size=32",
    "data.progressive.start_epoch=1", "data.progressive.end_epoch=3", "train.epochs=3",
]  # fmt: skip


EVERY_EPOCH = ["train.evaluate_epochs=1"]


def said(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl in their order, without what is measured by the clock."""
    timed = ("wall_seconds", "images_per_second", "data_stall_fraction")
    return [{key: line[key] for key in line if key not in timed} for line in read_metrics(folder)]


@pytest.mark.parametrize("settings, steps, stops", [(EVERY_EPOCH, 12, range(1, 13)), (LIKE_IMAGENET, 9, (2, 4, 6))])
def test_resume_at_every_step_is_as_if_never_stopped(settings, steps, stops, tmp_path):
    """Stopped after each step in turn (in the middle of an epoch, at its end, at the run's): the same weights bit for
    bit, and the same lines of metrics, no evaluation lost and none twice."""
    whole = tmp_path / "whole"
    expected = train(load("quickstart", [*SMALL, *settings, f"run.dir={whole}"]))
    assert expected.steps == steps
    for step in stops:
        folder = tmp_path / f"stopped{step}"
        before = os.environ.copy()
        AcceleratorState._reset_state(True)
        with pytest.raises(SystemExit) as ended:
            train(load("quickstart", [*SMALL, *settings, f"run.dir={folder}"]), [StopAfter(step)])
        assert ended.value.code == 128 + signal.SIGTERM
        assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
        AcceleratorState._reset_state(True)
        summary = train(load("quickstart", [*SMALL, *settings, f"run.dir={folder}", "run.resume=true"]))
        assert os.environ == before
        assert same_weights(weights(folder), weights(whole))
        assert said(folder) == said(whole)
        for key in ("steps", "epochs", "train_loss", "test_top1", "best_test_top1", "interpolation_epoch"):
            assert getattr(summary, key) == getattr(expected, key)


@pytest.mark.parametrize("evaluation", [1, 2, 4])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_signal_within_an_evaluation(evaluation, split, tmp_path, monkeypatch):
    """It is obeyed there, and what was broken off is the first that the continuation does."""
    settings = [*SMALL, "data.eval_batch_size=7", "train.evaluate_epochs=1"]
    expected = train(load("quickstart", [*settings, f"run.dir={tmp_path / 'whole'}"]))
    whole, seen = Data.evaluation, []

    def signalled(self, name):
        seen.append(name)
        for number, batch in enumerate(whole(self, name)):
            if seen.count(split) == evaluation and name == split and number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            assert seen.count(split) < evaluation or name != split or number <= 3, "it goes on"
            yield batch

    AcceleratorState._reset_state(True)
    settings += [f"run.dir={tmp_path / 'run'}"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(Data, "evaluation", signalled)
        train(load("quickstart", settings))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert Summary.read(tmp_path / "run").status == "interrupted"
    position = json.loads((checkpoints.latest(tmp_path / "run" / "checkpoints") / "position.json").read_text())
    assert (position["step"], position["evaluated_step"]) == (3 * evaluation, 3 * (evaluation - 1))
    AcceleratorState._reset_state(True)
    resumed = train(load("quickstart", [*settings, "run.resume=true"]))
    assert (resumed.status, resumed.test_top1) == ("finished", expected.test_top1)
    assert said(tmp_path / "run") == said(tmp_path / "whole")
    assert same_weights(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_resuming_a_finished_run_adds_nothing(tmp_path):
    settings = [*SMALL, f"run.dir={tmp_path / 'run'}"]
    first = train(load("quickstart", settings))
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    AcceleratorState._reset_state(True)
    again = train(load("quickstart", [*settings, "run.resume=true"]))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    assert (again.train_loss, again.steps, again.status) == (first.train_loss, first.steps, "finished")


def test_killed_after_an_evaluation_that_no_checkpoint_knows(tmp_path):
    """It is made again, and its first line is forgotten."""

    class Killed(Watcher):
        def step(self, position: Position) -> None:
            if position.step == 8:  # the evaluations after steps 3 and 6 are written, and the checkpoint of step 2
                raise KeyboardInterrupt

    train(load("quickstart", [*SMALL, *EVERY_EPOCH, f"run.dir={tmp_path / 'whole'}"]))
    settings = [*SMALL, *EVERY_EPOCH, f"run.dir={tmp_path / 'run'}"]
    AcceleratorState._reset_state(True)
    with pytest.raises(SystemExit):
        train(load("quickstart", settings), [StopAfter(2)])
    for resumed in range(2):
        AcceleratorState._reset_state(True)
        watchers = [] if resumed else [Killed()]
        with pytest.raises(KeyboardInterrupt) if watchers else contextlib.nullcontext():
            train(load("quickstart", [*settings, "run.resume=true"]), watchers)
    assert said(tmp_path / "run") == said(tmp_path / "whole")
    assert same_weights(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_watchers_are_told_of_each_batch_step_and_epoch(tmp_path):
    class Told(Watcher, list):
        def batch(self, batch, logits, loss):
            assert logits.shape == (10, 10) and loss.shape == () and not logits.requires_grad
            self.append(("batch", len(batch.index)))

        def step(self, position):
            self.append(("step", position.step, position.epoch, position.step_in_epoch))

        def epoch(self, epoch):
            self.append(("epoch", epoch))

    told = Told()
    train(
        load("quickstart", [*SMALL, "train.accumulate=3", "train.max_steps=4", f"run.dir={tmp_path / 'run'}"]), [told]
    )
    steps = [("step", 1, 0, 1), ("step", 2, 0, 2), ("step", 3, 1, 0), ("epoch", 0), ("step", 4, 1, 1)]
    assert [each for each in told if each[0] != "batch"] == steps
    assert [each for each in told if each[0] == "batch"] == 12 * [("batch", 10)]


def test_a_finished_run_can_go_on_longer(tmp_path):
    settings = [*SMALL, "schedule.kind=exponential"]
    train(load("quickstart", [*settings, f"run.dir={tmp_path / 'whole'}"]))
    AcceleratorState._reset_state(True)
    train(load("quickstart", [*settings, "train.epochs=2", f"run.dir={tmp_path / 'part'}"]))
    AcceleratorState._reset_state(True)
    summary = train(load("quickstart", [*settings, f"run.dir={tmp_path / 'part'}", "run.resume=true"]))
    assert summary.epochs == 4 and same_weights(weights(tmp_path / "whole"), weights(tmp_path / "part"))
    made_by = json.loads((tmp_path / "part" / "made_by.json").read_text())
    assert [entry.pop("after_step") for entry in made_by] == [0, 6]
    assert made_by[0] == made_by[1] == summary.made_by and summary.made_by["torch"] == torch.__version__.split("+")[0]
    assert {"fastgen", "timm", "accelerate"} < summary.made_by.keys()


def test_resume_refuses_what_would_not_be_the_same_run(tmp_path):
    folder = f"run.dir={tmp_path / 'run'}"
    with pytest.raises(UserError, match="no run to resume"):
        train(load("quickstart", [*SMALL, folder, "run.resume=true"]))
    AcceleratorState._reset_state(True)
    train(load("quickstart", [*SMALL, folder, "train.max_steps=2"]))
    AcceleratorState._reset_state(True)
    with pytest.raises(UserError, match="made with optim.lr"):
        train(load("quickstart", [*SMALL, folder, "run.resume=true", "optim.lr=0.9"]))
    AcceleratorState._reset_state(True)
    with pytest.raises(UserError, match="is not empty"):
        train(load("quickstart", [*SMALL, folder]))


def test_resume_refuses_other_data_under_the_same_recipe(tmp_path):
    """The folder's images were replaced between the two halves of a run."""
    for half in range(2):
        for i in range(40):
            path = tmp_path / "set" / "train" / f"class{i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((12, 12, 3), 5 * i + half, np.uint8)).save(path)
        settings = ["data.source=imagefolder", f"data.root={tmp_path / 'set'}", "data.batch_size=10", "data.limit=40"]
        settings += [f"run.dir={tmp_path / 'run'}", f"run.resume={half == 1}", f"train.max_steps={half + 2}"]
        AcceleratorState._reset_state(True)
        if half == 0:
            train(load("quickstart", settings))
    with pytest.raises(UserError, match="trained on other data .*fingerprints"):
        train(load("quickstart", settings))


def test_resume_refuses_a_label_table_that_has_changed(tmp_path):
    table, settings = tmp_path / "labels.npy", [*SMALL, "data.labels.kind=table", "data.labels.p=null"]
    settings += [f"data.labels.file={tmp_path / 'labels.npy'}", f"run.dir={tmp_path / 'run'}", "train.max_steps=1"]
    settings += ["schedule.kind=constant"]
    np.save(table, np.zeros(100, np.int64))
    train(load("quickstart", settings))
    np.save(table, np.ones(100, np.int64))
    AcceleratorState._reset_state(True)
    with pytest.raises(UserError, match=r"trained on other labels: data.labels.file=.*labels.npy has changed"):
        train(load("quickstart", [*settings, "run.resume=true", "train.max_steps=2"]))


@pytest.mark.parametrize("setting", ["train.precision=bf16", "train.compile=true", "train.channels_last=false"])
def test_options_that_change_how_it_is_computed(setting, tmp_path):
    small = [*SMALL, "model.name=fastgen_mlp_1x512", "model.dropout=0", "train.max_steps=6"]
    train(load("quickstart", [*small, f"run.dir={tmp_path / 'plain'}"]))
    AcceleratorState._reset_state(True)
    train(load("quickstart", [*small, setting, f"run.dir={tmp_path / 'other'}"]))
    plain, other = (lines(tmp_path / name, "train_running_loss_nats") for name in ("plain", "other"))
    assert plain.keys() == other.keys() and len(plain) == 6
    assert np.allclose(list(plain.values()), list(other.values()), rtol=0.02)
    assert weights(tmp_path / "other").keys() == weights(tmp_path / "plain").keys()


def test_damaged_checkpoints_are_named(tmp_path):
    folder = tmp_path / "run"
    settings = [*SMALL, f"run.dir={folder}", "schedule.kind=constant"]
    train(load("quickstart", [*settings, "train.max_steps=2"]))
    (found,) = (folder / "checkpoints").glob("step_*")
    (found / "model.safetensors").write_bytes(b"damaged")
    AcceleratorState._reset_state(True)
    with pytest.raises(UserError, match=r"step_00000002/model.safetensors is damaged; delete .* to begin anew"):
        train(load("quickstart", [*settings, "run.resume=true"]))


def test_checkpoints_are_whole_or_not_there(tmp_path):
    folder = tmp_path / "checkpoints"
    (folder / ".step_00000003.tmp").mkdir(parents=True)
    (folder / "step_old").mkdir()
    assert checkpoints.latest(folder) is None
    for name in ("step_00000002", "step_00000004"):
        (folder / name).mkdir()
    (folder / "step_00000002" / checkpoints.POSITION).touch()
    # Without a position it is half copied or damaged: named by `restore`, and not passed over.
    assert checkpoints.latest(folder) == folder / "step_00000004"


def test_runs_are_numbered_and_the_latest_is_resumed(tmp_path):
    constant = [*SMALL, "schedule.kind=constant"]
    for _ in range(2):
        AcceleratorState._reset_state(True)
        train(load("quickstart", [*constant, "train.max_steps=1"]))
    name = load("quickstart", constant).run.name
    assert sorted(p.name for p in Path("fastgen_out/runs").iterdir()) == [f"{name}-001", f"{name}-002"]
    AcceleratorState._reset_state(True)
    assert train(load("quickstart", [*constant, "run.resume=true"])).run_dir == f"fastgen_out/runs/{name}-002"


def test_old_checkpoints_are_deleted(tmp_path):
    settings = [*SMALL, "run.checkpoint_minutes=0", "run.keep_checkpoints=2", f"run.dir={tmp_path / 'run'}"]
    train(load("quickstart", settings))
    assert [p.name for p in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["step_00000011", "step_00000012"]


def test_the_first_checkpoint_comes_early(tmp_path, monkeypatch):
    monkeypatch.setattr("fastgen.training.prepare._FIRST_CHECKPOINT", 0.0)
    train(load("quickstart", [*SMALL, "run.checkpoint_minutes=100", f"run.dir={tmp_path / 'run'}"]))
    assert [p.name for p in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["step_00000001", "step_00000012"]


@pytest.mark.parametrize(
    ("settings", "evaluated"),
    [
        (["train.evaluate=always"], [3, 6, 9, 12]),
        (["train.evaluate=true", "train.max_steps=4"], [3, 4]),
        (["train.evaluate=end"], [12]),
        (["train.evaluate=end", "train.max_steps=4", "train.stop_at_interpolation=true"], [4]),
        (["train.evaluate=false"], []),
        (["train.evaluate=never", "train.max_steps=4"], []),
    ],
)
def test_what_is_evaluated(settings, evaluated, tmp_path, capsys):
    settings = [*SMALL, "train.evaluate_epochs=1", *settings]
    summary = train(load("quickstart", [*settings, f"run.dir={tmp_path / 'run'}"]))
    assert list(lines(tmp_path / "run", "train_top1_percent")) == evaluated
    assert (summary.train_top1 is None) == (summary.test_top1 is None) == (not evaluated)
    assert summary.status == "finished" and summary.steps == (4 if "train.max_steps=4" in settings else 12)
    told = "nobody sees when the training set is fitted" in capsys.readouterr().out
    assert told == ("train.stop_at_interpolation=true" in settings)
    assert cli.main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "page.html")]) == 0


@pytest.mark.parametrize(("width", "may_stop"), [(64, True), (64, False), (120, True)])
def test_progress_fits_the_terminal(width, may_stop, monkeypatch):
    out = io.StringIO()
    narrow = Console(file=out, width=width, force_terminal=True, highlight=False, soft_wrap=True)
    monkeypatch.setattr("fastgen.training.tracking.console", lambda: narrow)
    display = Display(True, 390_000, 0, may_stop)
    display.rate(999, 2.345, 12_345)
    display.step(Position(steps_per_epoch=390, step=123_456))
    narrow.print(display._progress.get_renderable())
    (line,) = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert len(line.rstrip()) <= width and "…" not in line
    assert all(word in line for word in ("epoch 999 loss 2.345", "123456/390000", "12,345/s"))
    assert line.rstrip().endswith("left at most" if may_stop else "left")


def test_divergence_is_an_error(tmp_path, capsys):
    arguments = ["recipe=quickstart", "optim.lr=1e6", "data.limit=200", f"run.dir={tmp_path / 'run'}"]
    assert cli.main(["train", *arguments, "track.log_steps=5", "train.stop_at_interpolation=false"]) == 1
    assert "training diverged. Lower optim.lr" in capsys.readouterr().err
    assert not (tmp_path / "run" / "summary.json").exists()
    assert Run(tmp_path / "run").state == "diverged" and not Run(tmp_path / "run").finished


@pytest.mark.parametrize("error", [BrokenPipeError, SystemExit(1), OSError(28, "No space left on device")])
def test_a_run_goes_on_where_nobody_reads(error, monkeypatch):
    monkeypatch.setattr("rich.console.Console.print", Mock(side_effect=error))
    Display(True, 10, 0).say("epoch 1")


def test_without_a_test_split(tmp_path):
    settings = ["data.source=synthetic", "data.synthetic.test_samples=0", "train.max_steps=2"]
    summary = train(load("quickstart", settings))
    assert summary.test_top1 is summary.best_test_top1 is summary.test_top5 is None


# ---------------------------------------------------------------- schedules


def test_the_papers_schedule_decays_after_each_pass_over_50000_samples():
    spec = load("cifar10_mlp_1x512_random").schedule
    assert set(SCHEDULES) == {"constant", "exponential", "cosine"}
    at = [learning_rate(spec, 0.01, p, 50_000, 0.5) for p in (0, 49_920, 50_000, 99_999, 100_000)]
    assert at == pytest.approx([0.01, 0.01, 0.0095, 0.0095, 0.009025])
    # With fewer samples the rate at a step stays what it was.
    assert learning_rate(spec, 0.01, 49_999, 1000, 0.5) == 0.01


def test_warm_up_and_cosine():
    spec = load("quickstart", ["schedule.kind=cosine", "schedule.warmup_samples=100"]).schedule
    rates = [learning_rate(spec, 1.0, p, 1000, p / 10_000) for p in (0, 50, 100, 5000, 10_000)]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-3)


@pytest.mark.parametrize(
    ("batch", "epochs", "max_steps"), [(800, 10, None), (100, 3, None), (37, 2, None), (50, 9, 11)]
)
def test_a_cosine_ends_with_the_run(batch, epochs, max_steps, tmp_path):
    """Each step's rate by its closed form, also where epochs drop a tail."""
    ends = ["null"] if max_steps is None else [max_steps]
    settings = [f"data.batch_size={batch}", f"train.epochs={epochs}", f"train.max_steps={ends[0]}", "optim.lr=0.05"]
    settings += ["schedule.kind=cosine", "track.log_steps=1", "train.stop_at_interpolation=false"]
    summary = train(load("quickstart", [*settings, f"run.dir={tmp_path / 'run'}"]))
    rates = lines(tmp_path / "run", "learning_rate")
    expected = [0.025 * (1 + math.cos(math.pi * step / summary.steps)) for step in range(summary.steps)]
    assert list(rates.values()) == pytest.approx(expected) and min(rates.values()) > 0
    if batch == 800:
        assert [round(rate, 4) for rate in list(rates.values())[6:]] == [0.0173, 0.0103, 0.0048, 0.0012]


def test_a_run_whose_rates_go_by_its_length_is_not_made_longer(tmp_path):
    for kind, longer in (("exponential", True), ("cosine", False)):
        settings = [*SMALL, f"schedule.kind={kind}", f"run.dir={tmp_path / kind}"]
        train(load("quickstart", [*settings, "train.epochs=1"]))
        AcceleratorState._reset_state(True)
        if longer:
            train(load("quickstart", [*settings, "train.epochs=2", "run.resume=true"]))
            AcceleratorState._reset_state(True)
            continue
        with pytest.raises(UserError, match="epochs=1, and now it is 2; .*cosine goes by the run's length"):
            train(load("quickstart", [*settings, "train.epochs=2", "run.resume=true"]))


def test_a_folder_of_a_process_that_died_before_its_recipe_was_written_can_be_used(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".recipe.yaml.tmp").write_text("recipe: quick")
    assert train(load("quickstart", [*SMALL, "train.max_steps=1", f"run.dir={folder}"])).steps == 1
    AcceleratorState._reset_state(True)
    for name in ("manifest.json", "made_by.json", "metrics.jsonl", "summary.json"):  # one that died just after it
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints")
    again = [*SMALL, "train.max_steps=1", f"run.dir={folder}", "run.resume=true"]
    assert train(load("quickstart", again)).steps == 1


@pytest.mark.parametrize(("processes", "needed"), [(1, True), (2, False)])
def test_a_disk_that_fills_up(processes, needed, tmp_path):
    """A checkpoint that cannot be written leaves the one before, and nothing else; the run ends or goes on."""
    folder = tmp_path / "run"
    settings = [*SMALL, "schedule.kind=constant", "run.checkpoint_minutes=0", f"run.dir={folder}"]
    train(load("quickstart", [*settings, "train.max_steps=2"]))
    more = [*settings, "run.resume=true", "train.max_steps=5"]
    command = [sys.executable, "-m", "fastgen.cli", "train"]
    if processes > 1:
        config = ROOT / "recipes" / "accelerate" / f"cpu_{processes}.yaml"
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        command += ["--main_process_port", "0", str(ROOT / "fastgen" / "train.py")]
    # As many bytes as recipe and metrics need, and fewer than the weights: a write fails as on a full disk.
    done = subprocess.run(
        [*command, "recipe=quickstart", *more, f"run.need_checkpoints={str(needed).lower()}"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode and (processes > 1 or "Traceback" not in done.stderr)  # accelerate's launcher writes its own
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == ["step_00000001", "step_00000002"]
    assert f"no checkpoint can be written to {folder / 'checkpoints'}: " in done.stderr
    assert "step_00000002 is kept, and run.resume=true goes on from it" in done.stderr
    assert ("the run goes on" in done.stdout) == (not needed)
    assert read_metrics(folder)[-1]["step"] == (3 if needed else 5)
    AcceleratorState._reset_state(True)
    assert train(load("quickstart", more)).steps == 5


# ---------------------------------------------------------------- tracking


def logged_records(folder: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Of the one offline run that `wandb sync` would find: LevelDB's log."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or a last part
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def logged_steps(folder: Path) -> list[int]:
    """The key `step` of each line of history."""
    items = (item for record in logged_records(folder) for item in record.history.item)
    return [int(item.value_json) for item in items if list(item.nested_key) == ["step"]]


def test_wandb_offline(tmp_path):
    pytest.importorskip("wandb")
    folder = tmp_path / "run"
    settings = [*SMALL, "track.wandb=offline", "track.tags=[mine]", "train.max_steps=3", f"run.dir={folder}"]
    done = subprocess.run(
        [sys.executable, "-m", "fastgen.cli", "train", "recipe=quickstart", *settings],
        capture_output=True, text=True, timeout=180, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(read_metrics(folder)) == 4
    config, told, runs, keys = {}, {}, [], set()
    for record in logged_records(folder):
        for update in (record.run.config.update, record.config.update):
            config |= {item.key: json.loads(item.value_json) for item in update}
        told |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.summary.update}
        keys |= {item.nested_key[0] for item in record.history.item}
        runs += [record.run] if record.run.run_id else []
    summary = json.loads((folder / "summary.json").read_text())
    assert runs[0].run_id == (folder / "wandb_id.txt").read_text()
    assert runs[0].display_name == "quickstart-run-seed0" and runs[0].run_group == "quickstart"
    assert list(runs[0].tags) == ["fastgen_mlp_3x512", "synthetic", "mine"]  # and no "none" of the pixels
    assert {"train_running_loss_nats", "test_top1_percent"} <= keys
    assert config["params"] == summary["params"] and config["manifest_sha256"] == summary["manifest_sha256"]
    assert config["made_by"] == {key: text for key, text in summary["made_by"].items() if key != "machine"}
    assert config["data.labels.kind"] == "random"
    for key in ("status", "epochs", "best_test_top1", "interpolation_epoch"):
        assert told[key] == summary[key], key
    assert told["best_test_top1"] == summary["test_top1"] and told["status"] == "finished"


class Interrupted(Watcher):
    def step(self, position: Position) -> None:
        if position.step == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("more", "watchers", "error"),
    [(["optim.lr=1e30"], [], ArithmeticError), ([], [Interrupted()], KeyboardInterrupt)],
    ids=["diverges", "is interrupted at once"],
)
def test_wandb_has_all_that_a_run_which_fails_logged_and_that_it_failed(more, watchers, error, tmp_path):
    """At once, and not as the process exits: in this one it would be after the test, and the next training there."""
    wandb = pytest.importorskip("wandb")
    folder = tmp_path / "run"
    try:
        with pytest.raises(error):
            train(load("quickstart", [*SMALL, *more, "track.wandb=offline", f"run.dir={folder}"]), watchers)
        told = list(logged_records(folder))
        assert wandb.run is None
    finally:
        wandb.teardown()  # its service would serve all processes that this one starts
    assert [record.exit.exit_code for record in told if record.HasField("exit")] == [1]
    assert logged_steps(folder) == [line["step"] for line in read_metrics(folder)] != []


def test_wandb_offline_has_each_line_once_after_a_kill_and_a_resume(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "fastgen.cli", "train", "recipe=quickstart", *SMALL, "track.wandb=offline"]
    command += ["schedule.kind=constant", "run.checkpoint_minutes=0.01", f"run.dir={folder}"]
    killed = subprocess.Popen([*command, "train.epochs=100000"], cwd=ROOT, stdout=subprocess.DEVNULL)
    while (found := checkpoints.latest(folder / "checkpoints")) is None or len(read_metrics(folder)) < 40:
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    epochs = Position(steps_per_epoch=3, step=int(found.name.removeprefix("step_"))).epoch + 8
    subprocess.run([*command, f"train.epochs={epochs}", "run.resume=true"], cwd=ROOT, check=True, timeout=180)
    steps = sorted({line["step"] for line in read_metrics(folder)})
    assert steps == list(range(1, 3 * epochs + 1)) == logged_steps(folder)


@pytest.mark.parametrize(
    ("settings", "folder", "expected"),
    [
        ([], "quickstart-007", ("random", "quickstart-007-seed0", [])),
        (["labels.kind=partial", "labels.p=0.4"], "mine", ("random-0.4", "quickstart-mine-seed0", [])),
        (["labels.kind=true", "pixels.kind=shuffled"], "quickstart-a", ("true", "quickstart-a-seed0", ["shuffled"])),
        (["labels.kind=pair", "labels.p=0.25"], "quickstart", ("pair-0.25", "quickstart-seed0", [])),
    ],
)
def test_wandb_names_a_run_by_what_it_is(settings, folder, expected, tmp_path):
    recipe = load("quickstart", ["track.wandb=offline", *(f"data.{setting}" for setting in settings)])
    accelerator, folder = Mock(is_main_process=True), tmp_path / folder
    folder.mkdir()
    start_wandb(accelerator, recipe, folder, lambda: Image.new("RGB", (1, 1)), {"params": 7})
    called = accelerator.init_trackers.call_args.kwargs
    (told,) = called["init_kwargs"].values()
    job_type, name, tags = expected
    assert (told["job_type"], told["group"], told["name"]) == (job_type, "quickstart", name)
    assert told["tags"] == ["fastgen_mlp_3x512", "digits", *tags]
    assert called["config"] == {**recipe.flat(), "params": 7}


def test_metrics_have_units_and_survive_a_cut(tmp_path):
    train(load("quickstart", [*SMALL, f"run.dir={tmp_path / 'run'}"]))
    path = tmp_path / "run" / "metrics.jsonl"
    whole = read_metrics(path.parent)
    units = ("_nats", "_percent", "_seconds", "_fraction", "_per_second")
    counted = {"step", "epoch", "learning_rate"}
    assert all(key in counted or key.endswith(units) for line in whole for key in line)
    path.write_bytes(path.read_bytes()[:-20])
    assert read_metrics(path.parent) == whole[:-1]


def test_the_training_set_can_be_evaluated_seldom(tmp_path):
    seldom = [*SMALL, *EVERY_EPOCH, "train.evaluate_train_epochs=3", "train.epochs=5"]
    summary = train(load("quickstart", [*seldom, f"run.dir={tmp_path / 'run'}"]))
    steps = 100 // 30
    assert list(lines(tmp_path / "run", "test_top1_percent")) == [steps * epoch for epoch in range(1, 6)]
    found = {step: value for step, value in lines(tmp_path / "run", "train_top1_percent").items() if value is not None}
    assert list(found) == [3 * steps, 5 * steps]  # and at the end
    assert summary.train_top1 == found[5 * steps]
    assert Run(tmp_path / "run").last_line("train_top1_percent")["epoch"] == 5
    AcceleratorState._reset_state(True)
    alone = [*seldom, "data.labels.kind=rademacher", "train.epochs=2"]  # signs have no test set
    train(load("quickstart", [*alone, f"run.dir={tmp_path / 'signs'}"]))
    assert list(lines(tmp_path / "signs", "train_top1_percent")) == [steps, 2 * steps]
