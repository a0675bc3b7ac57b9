"""What of the paper was run, whole or in part, and which file proves it."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastgen.paper.experiments import EXPERIMENTS, STUDIES, Entry, Scope
from fastgen.paper.settings import Settings
from fastgen.paper.studies import case_file, find_study
from fastgen.recipe.schema import Recipe
from fastgen.report.page import Page
from fastgen.runs.folder import RECIPE, decisive_settings
from fastgen.runs.metrics import METRICS
from fastgen.runs.run import Run
from fastgen.runs.summary import SUMMARY, metric

WHOLE, SUBSET, NEVER = "whole", "subset", "never"
_SEEDS = ("seed", "data.labels.seed", "data.pixels.seed")
_HEADER = ["experiment", "row", "state", "seeds", "proof"]


def coverage(root: Path) -> Page:
    """A page with a line for each row and point of the paper's experiments. root: where their runs lie.

    whole: the recipe as it is shipped was run to its end, for that many seeds. subset: with a limit or other settings,
    or not to its end yet, which the line names. never: nothing of it is below `root`.
    """
    runs: dict[str, list[Run]] = {}
    for recipe in sorted((root / "runs").glob(f"*/{RECIPE}")):
        run = Run(recipe.parent)
        runs.setdefault(run.settings["recipe"], []).append(run)
    rows = [row for name in EXPERIMENTS for row in _of_experiment(name, runs, root)]
    rows += [row for name in STUDIES for row in _of_study(name, root)]
    page = Page("What of the paper was run")
    page.table(_HEADER, rows)
    counts = ", ".join(f"{sum(row[2].startswith(state) for row in rows)} {state}" for state in (WHOLE, SUBSET, NEVER))
    page.text(f"Rows and points: {counts}.")
    return page


def _of_experiment(name: str, runs: dict[str, list[Run]], root: Path) -> Iterator[list[str]]:
    for entry in EXPERIMENTS[name].entries(Scope(None, smoke=False)):
        found = [(run, _differences(run, entry)) for run in runs.get(Path(entry.recipe).stem, [])]
        whole = [run for run, differences in found if run.finished and not differences]
        label = ", ".join(f"{key} {text}" for key, text in entry.labels.items())
        if whole:
            proof = ", ".join(str((run.folder / SUMMARY).relative_to(root)) for run in whole)
            yield [name, label, WHOLE, str(len(whole)), proof]
            continue
        parts = sorted((len(differences), _words(run, differences), run.folder) for run, differences in found)
        if parts := [part for part in parts if part[1]]:
            _, words, folder = parts[0]
            file = SUMMARY if (folder / SUMMARY).is_file() else METRICS
            yield [name, label, f"{SUBSET}: {words}", "", str((folder / file).relative_to(root))]
        else:
            yield [name, label, NEVER, "", ""]


def _differences(run: Run, entry: Entry) -> list[str]:
    """What a run has otherwise than an entry's recipe, but for seeds; the point of a curve as well."""
    wanted, usual = decisive_settings(entry.point(0, ()).load()), Recipe().flat()
    own = {key: run.settings.get(key, usual.get(key)) for key in wanted}
    return [f"{key}={own[key]}" for key in wanted if key not in _SEEDS and own[key] != wanted[key]]


def _words(run: Run, differences: list[str]) -> str:
    """What makes a run less than the whole; empty where it is another point, or nothing was measured yet."""
    if any(text.startswith(("data.labels.", "data.pixels.")) for text in differences):
        return ""
    if run.finished:
        return ", ".join(differences)
    line = run.last_line(metric("train_top1"))
    return ", ".join([f"{line['epoch']:g} of {run.settings['train.epochs']} epochs", *differences]) if line else ""


def _of_study(name: str, root: Path) -> Iterator[list[str]]:
    for case in find_study(name).cases(None):
        path = case_file(name, case, Settings(), root)
        others = (other for other in sorted(path.parent.glob(f"{name}-{case.name}-*.json")) if other != path)
        for row in case.rows:
            label = ", ".join(f"{key} {text}" for key, text in row.labels.items())
            if path.is_file():
                yield [name, label, WHOLE, "1", str(path.relative_to(root))]
            elif (other := next(others, None)) is not None:
                yield [name, label, f"{SUBSET}: {_changed(other)}", "", str(other.relative_to(root))]
            else:
                yield [name, label, NEVER, "", ""]


def _changed(path: Path) -> str:
    document = json.loads(path.read_text())
    usual = dict(_flat(json.loads(json.dumps(Settings(), default=vars))))
    changed = [f"{key}={value}" for key, value in _flat(document["settings"]) if value != usual.get(key)]
    return ", ".join(changed) or "computed by another version"


def _flat(values: dict[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
