"""Copies what proves the results of `fastgen reproduce` into docs/results: python benchmarks/record_runs.py FOLDER.

FOLDER: where the runs lie, finished or not. Of each the recipe, the summary and the evaluations are kept, without
names of this machine's folders; the pages are then made from the copies: fastgen reproduce all --show --output
docs/results.
"""

import json
import shutil
import sys
from pathlib import Path

import yaml

from fastgen.runs.folder import RECIPE
from fastgen.runs.metrics import METRICS, read_metrics
from fastgen.runs.summary import SUMMARY, metric
from pipelines.durable import write_atomically

RESULTS = Path(__file__).parent.parent / "docs/results"
_CURVE = 60  # points that are kept of a curve of the running loss


def record(run: Path, target: Path) -> None:
    """Copy a run directory's recipe, summary and evaluations."""
    lines = read_metrics(run)
    evaluations = [line for line in lines if metric("train_top1") in line]
    if not evaluations:
        return
    target.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_load((run / RECIPE).read_text())
    recipe["run"]["dir"] = recipe["data"]["root"] = None
    write_atomically(target / RECIPE, yaml.safe_dump(recipe, sort_keys=False))
    steps = [line for line in lines if metric("train_top1") not in line]
    kept = steps[:: max(1, len(steps) // _CURVE)] + evaluations
    text = "".join(json.dumps(line) + "\n" for line in sorted(kept, key=lambda line: line["step"]))
    write_atomically(target / METRICS, text)
    if (run / SUMMARY).is_file():
        summary = json.loads((run / SUMMARY).read_text())
        write_atomically(target / SUMMARY, json.dumps({**summary, "run_dir": f"runs/{run.name}"}, indent=1) + "\n")


def main(folder: Path) -> None:
    for recipe in sorted((folder / "runs").glob(f"*/{RECIPE}")):
        record(recipe.parent, RESULTS / "runs" / recipe.parent.name)
    (RESULTS / "theory").mkdir(exist_ok=True)
    for study in sorted((folder / "theory").glob("*.json")):
        shutil.copy(study, RESULTS / "theory" / study.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
