"""What lies in a run directory is written and read by the same names."""

import json
import os
from dataclasses import asdict, fields

import pytest
from whole_runs import a_summary

from fastgen import cli
from fastgen.recipe.load import load
from fastgen.runs.folder import MADE_BY, RECIPE, RunLock, begin, choose
from fastgen.runs.metrics import METRICS, MetricsFile, read_metrics
from fastgen.runs.run import PARTS, Run
from fastgen.runs.summary import SUMMARY, Evaluation, Summary, metric
from pipelines.baked.manifest import MANIFEST
from pipelines.errors import UserError


def test_a_summary_is_read_as_it_was_written(tmp_path):
    assert Summary.read(tmp_path) is None and Run(tmp_path).state == "not finished"
    summary = a_summary(train_top1=99.5, test_top1=None, time_fractions={"step": 1.0})
    summary.write(tmp_path)
    assert Summary.read(tmp_path) == summary == Run(tmp_path).summary and Run(tmp_path).finished
    assert json.loads((tmp_path / SUMMARY).read_text()) == asdict(summary)


@pytest.mark.parametrize("content", ["{", "[]", '{"status": "finished"}', '{"surprise": 1}'])
def test_a_damaged_summary_is_named(content, tmp_path):
    (tmp_path / SUMMARY).write_text(content)
    with pytest.raises(UserError, match=r"summary.json is damaged .*delete it and resume"):
        Summary.read(tmp_path)


def test_a_summary_that_cannot_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / SUMMARY).mkdir()
    with pytest.raises(UserError, match=r"summary.json cannot be read \(Is a directory\)"):
        Summary.read(tmp_path)
    (tmp_path / "file").touch()
    assert Summary.read(tmp_path / "file" / "run") is None


def test_metrics_and_summary_have_the_same_names():
    names = [item.name for item in fields(Evaluation)]
    assert {item.name for item in fields(Summary)} >= set(names)
    line = Evaluation(train_loss=0.5, test_top1=10.0).line()
    assert list(line) == [metric(name) for name in names]
    assert (line["train_loss_nats"], line["test_top1_percent"], line["train_top5_percent"]) == (0.5, 10.0, None)
    assert set(PARTS) < set(line)
    with pytest.raises(ValueError):
        metric("no_such_field")


@pytest.mark.parametrize("evaluated", [True, False])
def test_lines_that_will_come_again_are_left_out(evaluated, tmp_path):
    steps = [{"step": step, "epoch": 0.5, "learning_rate": 0.1} for step in (1, 2, 3)]
    evaluations = [{"step": step, "epoch": 0.5, **Evaluation(train_top1=1.0).line()} for step in (1, 2)]
    written = [steps[0], evaluations[0], steps[1], evaluations[1], steps[2]]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in written) + '{"step": 4, "cut')
    file = MetricsFile(tmp_path, step=2, evaluated=evaluated)
    file.write({"step": 3, "epoch": 0.5, "learning_rate": 0.2})
    file.close()
    kept = written[:4] if evaluated else written[:3]
    assert read_metrics(tmp_path) == [*kept, {"step": 3, "epoch": 0.5, "learning_rate": 0.2}]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'{"epoch": 1}',
        b'{"step": "1", "epoch": 1}',
        b'{"step": -1, "epoch": 1}',
        b'{"step": true, "epoch": 1}',
        b'{"step": 1, "epoch": null}',
        b'{"step": 1}',
        b'{"step": 1, "epoch": 1, "x": "y"}',
        b'{"step": 1, "epoch": 1, "x": 1' + b"0" * 400 + b"}",
        b"\xff\xfe",
        b"\0",
        b"[" * 9999,
    ],
)
def test_a_damaged_line_is_named_and_a_cut_last_one_is_none(line, tmp_path):
    whole = b'{"step": 1, "epoch": 0.5}\n'
    (tmp_path / METRICS).write_bytes(whole + line + b"\n" + whole)
    with pytest.raises(UserError, match=r"line 2 of .*metrics.jsonl is damaged: .*; a resumed run goes on without it"):
        MetricsFile(tmp_path, step=1, evaluated=True)
    (tmp_path / METRICS).write_bytes(whole + line)
    assert read_metrics(tmp_path) == [{"step": 1, "epoch": 0.5}]


def test_one_process_trains_in_a_folder(tmp_path):
    recipe = load("quickstart", [f"run.dir={tmp_path}"])
    with RunLock() as lock, RunLock() as other:
        assert choose(recipe, lock) == tmp_path
        for resume in ("false", "true"):
            begin = load("quickstart", [f"run.dir={tmp_path}", f"run.resume={resume}"])
            with pytest.raises(UserError, match="another process is training in"):
                choose(begin, other)
            (tmp_path / RECIPE).write_text(recipe.to_yaml())
    assert not list(tmp_path.iterdir())  # it has not trained
    with RunLock() as lock:
        assert choose(recipe, lock) == tmp_path
        lock.keep()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["plain", "my[1]", "a*", "a b"])
def test_every_run_has_a_number_of_its_own(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}.yaml").write_text("base: quickstart")
    for number in (1, 2):
        with RunLock() as lock:
            assert choose(load(f"./{name}.yaml"), lock).name == f"{name}-00{number}"
            lock.keep()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ([], "quickstart"),
        (["data.labels.kind=partial", "data.labels.p=0.40"], "quickstart-random-p-0.4"),
        (["data.labels.p=0.4", "data.labels.kind=random", "data.labels.p=0.5"], "quickstart-p-0.5-random"),
        (["model.name=resnet18", "optim.lr=1e-3", "train.epochs=9", "run.dir=x", "data.workers=1"],
         "quickstart-resnet18-lr-0.001"),
        (["track.tags=[a]", "data.augment.flip=true"], "quickstart-flip-true"),
        (["run.name=mine", "seed=1"], "mine"),
        ([f"{key}=0.25" for key in
          ("optim.lr", "optim.momentum", "train.ema", "model.dropout", "optim.eps", "optim.clip")],
         "quickstart-lr-0.25-momentum-0.25-ema-0.25-dropout-0.25-eps-0.25+1"),
    ],
)  # fmt: skip
def test_a_run_is_named_after_what_it_is(settings, name):
    assert load("quickstart", settings).run.name == name


def test_resuming_without_a_folder_names_the_latest(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGEN_OUTPUT", str(tmp_path / "out"))
    for number, settings in enumerate(([], ["seed=1"], ["seed=2"], ["seed=3"])):
        with RunLock() as lock:
            recipe = load("quickstart", settings)
            folder = choose(recipe, lock)
            (folder / RECIPE).write_text(recipe.to_yaml())
            os.utime(folder / RECIPE, (number, number))
            lock.keep()
    runs = tmp_path / "out" / "runs"
    with RunLock() as lock:
        assert choose(load("quickstart", ["seed=2", "run.resume=true", "train.epochs=9"]), lock).name.endswith(
            "seed-2-001"
        )
    latest = ", ".join(str(runs / f"quickstart-seed-{seed}-001") for seed in (3, 2, 1))
    with RunLock() as lock, pytest.raises(UserError, match=f"named quickstart-seed-7 in .*the latest are {latest}$"):
        choose(load("quickstart", ["seed=7", "run.resume=true"]), lock)


@pytest.mark.parametrize("content", ["", "[", "{}x", "3", "null"])
def test_a_damaged_list_of_versions_is_named(content, tmp_path):
    recipe = load("quickstart", [f"run.dir={tmp_path}"])
    (tmp_path / MANIFEST).write_text("{}")
    (tmp_path / MADE_BY).write_text(content)
    with pytest.raises(UserError, match=r"made_by.json is damaged .*restore it or delete it"):
        begin(tmp_path, recipe, tmp_path, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- 1",
        b"seed: x",
        b"\xff",
        b"seed: ${x}",
        b"data: 3",
        b"recipe: [1]",
        b"recipe: ???",
        b"recipe: ${x}",
        b"recipe: ../x",
        b"seed: 1\nseed: 2",
    ],
)
def test_a_damaged_recipe_of_a_run_is_named(content, tmp_path, capsys):
    (tmp_path / RECIPE).write_bytes(content)
    (tmp_path / MANIFEST).write_text("{}")
    for command in (["report"], ["train", "recipe=quickstart", "run.resume=true"]):
        where = f"run.dir={tmp_path}" if command[0] == "train" else str(tmp_path)
        assert cli.main([*command, where]) == 2
        said = capsys.readouterr().err
        assert "recipe.yaml" in said and said.count("\n") == 1
    with pytest.raises(UserError, match="recipe.yaml"):
        _ = Run(tmp_path).settings


@pytest.mark.parametrize(("labels", "words"), [("{kind: odd}", "unknown data.labels.kind 'odd'"), ("{p: 7}", "p=7.0")])
def test_a_runs_labelling_that_is_none_is_named(labels, words, tmp_path):
    (tmp_path / RECIPE).write_text(f"data: {{labels: {labels}}}")
    with pytest.raises(UserError, match=f"recipe.yaml: .*{words}"):
        _ = Run(tmp_path).labels
