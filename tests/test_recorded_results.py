"""What is committed of the paper's runs: copies without names of a machine, and a README that follows them."""

import json
import re
import runpy
from pathlib import Path

import pytest
from whole_runs import a_summary

from fastgen.recipe.load import load
from fastgen.runs.run import Run
from fastgen.runs.summary import Summary

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(monkeypatch):
    monkeypatch.chdir(ROOT)
    return runpy.run_path("benchmarks/record_runs.py")


def test_a_copy_has_the_evaluations_and_no_folder_of_the_machine(script, tmp_path):
    run, copy = tmp_path / "secret" / "runs" / "one", tmp_path / "copy"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(load("quickstart", [f"run.dir={run}", f"data.root={tmp_path}/secret"]).to_yaml())
    lines = [{"step": step, "epoch": step / 10, "train_running_loss_nats": 1.0} for step in range(1, 1001)]
    lines += [{"step": 1000, "epoch": 100.0, "train_top1_percent": 99.0, "test_top1_percent": 50.0}]
    for name in ("manifest.json", "made_by.json"):
        (run / name).write_text("[]")
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    script["record"](run, copy)
    assert Run(copy).summary is None and not Run(copy).finished  # it has not ended yet
    a_summary(run_dir=str(run), test_top1=50.0).write(run)
    script["record"](run, copy)
    assert Run(copy).finished and Summary.read(copy).test_top1 == 50
    assert 50 < len(Run(copy).lines) < 70 and Run(copy).lines[-1]["test_top1_percent"] == 50
    assert not any("secret" in file.read_text() for file in copy.iterdir())


@pytest.mark.parametrize(("document", "short"), [("README.md", True), ("docs/paper.md", False)])
def test_a_document_has_the_table_that_the_recorded_runs_give(document, short, script):
    text = (ROOT / document).read_text()
    assert script["with_table"](text, short) == text
    assert script["BEGIN"] in text and text.index(script["BEGIN"]) < text.index(script["END"])


def test_a_document_has_the_rows_of_its_page():
    page, document = ((ROOT / f"docs/{name}.md").read_text() for name in ("results/table1", "paper"))
    rows = [line for line in page.splitlines() if line.startswith(("| Inception", "| AlexNet", "| MLP"))]
    assert len(rows) == 19 and all(row in document for row in rows if "not run" not in row)


def test_recipes_of_whole_rows_do_not_say_that_nobody_ran_them():
    rows = [line for line in (ROOT / "docs/results/coverage.md").read_text().splitlines() if "| whole |" in line]
    recipes = {name for row in rows for name in re.findall(r"runs/(\w+)-[0-9a-f]{10}/summary.json", row)}
    assert len(recipes) >= 20
    heads = {name: (ROOT / f"recipes/{name}.yaml").read_text() for name in recipes}
    assert [name for name, text in heads.items() if "not run whole yet" in text] == []
