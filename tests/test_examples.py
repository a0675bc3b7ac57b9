"""What examples/ shows runs, on fewer samples; the notebook's outputs are small and name no folder of a machine."""

import json
import re
from pathlib import Path

import copies
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOK = EXAMPLES / "first_hour.ipynb"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "needs"), [("own_loop", "torch"), ("own_loop_lightning", "lightning")])
def test_a_loop_of_ones_own_runs(name, needs, tmp_path):
    pytest.importorskip(needs)
    (tmp_path / "small.yaml").write_text("base: quickstart\ndata: {limit: 320}\n")
    done = copies.run(EXAMPLES / f"{name}.py", "small.yaml", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"small.yaml, random labels, 2 epochs: .*test \d+\.\d %$", done.stdout.strip())
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 50


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, 4)
    (training,) = (cell for cell in notebook.cells if "fastgen.train(" in cell.source and "runs" in cell.source)
    assert '"train.evaluate_epochs": 2' in training.source
    training.source = training.source.replace('epochs": 2', 'epochs": 1, "train.epochs": 2, "data.limit": 320')
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    (mistake,) = (o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error")
    assert len(mistake.traceback) == 1 and "did you mean 'optim.lr'?" in mistake.traceback[0]


def test_the_notebook_as_it_is_committed():
    text = NOTEBOOK.read_text()
    outputs = [output for cell in json.loads(text)["cells"] for output in cell.get("outputs", [])]
    kinds = [output["output_type"] for output in outputs]
    assert "display_data" in kinds and kinds.count("error") == 1 and len(text) < 100_000
    assert not re.search(r"/(home|root|tmp|work|usr|Users)/", text)
