"""Copies what proves the results of `fastgen reproduce` into docs/results, and makes its pages, and the tables of
docs/paper.md and README.md.

    python benchmarks/record_runs.py [FOLDER]      (in the checkout's root)

FOLDER: where the runs lie, finished or not, as benchmarks/whole_paper.sh leaves them. Of each the recipe, the summary
and the evaluations are kept, without names of this machine's folders. Without FOLDER the pages alone are made again
from what is in docs/results, whose runs `fastgen reproduce NAME --show --output docs/results` shows as well.
"""

import json
import shutil
import sys
from pathlib import Path

import yaml

from fastgen.paper.comparison import Result, comparison
from fastgen.paper.coverage import coverage
from fastgen.paper.experiments import EXPERIMENTS, Scope
from fastgen.paper.reproduce import reproduce
from fastgen.report.outcome import finish
from fastgen.runs.folder import MADE_BY, RECIPE
from fastgen.runs.metrics import METRICS, read_metrics
from fastgen.runs.summary import SUMMARY, metric
from fastgen.sweeps.executor import found_jobs
from pipelines.baked.manifest import MANIFEST
from pipelines.durable import write_atomically

SEEDS = (0, 1, 2)
RESULTS, PAPER, README = Path("docs/results"), Path("docs/paper.md"), Path("README.md")
_SHORT = (
    "model",
    "labels",
    "training, paper",
    "training, ours",
    "test, paper",
    "test, ours",
)  # columns of the README's
BEGIN, END = "<!-- table 1: python benchmarks/record_runs.py -->", "<!-- end -->"
_CURVE = 60  # points that are kept of a curve of the running loss


def record(run: Path, target: Path) -> None:
    """Copy a run directory's recipe, manifest, summary, evaluations, and the versions that made it."""
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
    for name in (MANIFEST, MADE_BY):
        shutil.copy(run / name, target / name)
    if (run / SUMMARY).is_file():
        summary = json.loads((run / SUMMARY).read_text())
        write_atomically(target / SUMMARY, json.dumps({**summary, "run_dir": f"runs/{run.name}"}, indent=1) + "\n")


def copy(folder: Path) -> None:
    """Copy all runs and all outcomes of the theory's studies."""
    for recipe in sorted((folder / "runs").glob(f"*/{RECIPE}")):
        record(recipe.parent, RESULTS / "runs" / recipe.parent.name)
    for study in sorted((folder / "theory").glob("*.json")):
        (RESULTS / "theory").mkdir(exist_ok=True)
        shutil.copy(study, RESULTS / "theory" / study.name)


def results(name: str) -> list[Result]:
    """The rows of an experiment with their recorded runs, for seeds 0, 1, 2."""
    entries = EXPERIMENTS[name].entries(Scope(None, smoke=False))
    return [Result(entry, found_jobs([entry.point(s, ()) for s in SEEDS], RESULTS / "runs")) for entry in entries]


def make_page(name: str) -> None:
    """Write docs/results/NAME.md and its figures."""
    command = f"fastgen reproduce {name} --seeds {','.join(map(str, SEEDS))}"
    if name == "coverage":
        finish(coverage(RESULTS), RESULTS / "coverage.html")
    else:
        reproduce(name, [], seeds=SEEDS, root=RESULTS, only_show=True, command=command)
    for figure in sorted((RESULTS / f"{name}_files").glob("*.svg")):
        figure.rename(RESULTS / figure.name)
    page = RESULTS / f"{name}.md"
    page.write_text(page.read_text().replace(f"({name}_files/", "("))
    page.with_suffix(".html").unlink()
    shutil.rmtree(RESULTS / f"{name}_files", ignore_errors=True)


def table(short: bool) -> str:
    """Table 1's rows that were run. short: without crops and weight decay, and the accuracies alone."""
    header, rows = comparison(EXPERIMENTS["table1"], results("table1"))
    at = {name: header.index(name) for name in (*_SHORT, "random crop", "weight decay")}  # "inside" is there twice
    rows = [row for row in rows if row[at["training, ours"]] != "not run"]
    if short:
        rows = [row for row in rows if row[at["random crop"]] == row[at["weight decay"]] == "no"]
        header, rows = list(_SHORT), [[row[at[name]] for name in _SHORT] for row in rows]
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_table(text: str, short: bool) -> str:
    """A document's text with the table as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(short)}{END}{after}"


def main(arguments: list[str]) -> None:
    if arguments:
        copy(Path(arguments[0]))
    for name in EXPERIMENTS:
        if any(result.summaries for result in results(name)):
            make_page(name)
    make_page("coverage")
    for document in (PAPER, README):
        write_atomically(document, with_table(document.read_text(), short=document == README))


if __name__ == "__main__":
    main(sys.argv[1:])
