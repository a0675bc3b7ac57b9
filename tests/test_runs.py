"""What lies in a run directory is written and read by the same names."""

import json
from dataclasses import asdict, fields

import pytest
from whole_runs import a_summary

from fastgen.runs.metrics import METRICS, MetricsFile, read_metrics
from fastgen.runs.run import PARTS, Run
from fastgen.runs.summary import SUMMARY, Evaluation, Summary, metric
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
    steps = [{"step": step, "learning_rate": 0.1} for step in (1, 2, 3)]
    evaluations = [{"step": step, **Evaluation(train_top1=1.0).line()} for step in (1, 2)]
    written = [steps[0], evaluations[0], steps[1], evaluations[1], steps[2]]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in written) + '{"step": 4, "cut')
    file = MetricsFile(tmp_path, step=2, evaluated=evaluated)
    file.write({"step": 3, "learning_rate": 0.2})
    file.close()
    kept = written[:4] if evaluated else written[:3]
    assert read_metrics(tmp_path) == [*kept, {"step": 3, "learning_rate": 0.2}]
