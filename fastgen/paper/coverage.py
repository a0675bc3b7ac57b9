"""What of the paper was run, whole or in part, and which file proves it."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from yaml import YAMLError

from fastgen.paper.experiments import EXPERIMENTS, STUDIES, Entry, Scope
from fastgen.paper.settings import Settings
from fastgen.paper.studies import Case, case_file, find_study
from fastgen.recipe.schema import Recipe
from fastgen.report.page import Page
from fastgen.runs.folder import RECIPE, decisive_settings
from fastgen.runs.metrics import METRICS
from fastgen.runs.run import Run
from fastgen.runs.summary import SUMMARY, metric
from pipelines.errors import UserError

WHOLE, SUBSET, NEVER = "whole", "subset", "never"
_SEEDS = ("seed", "data.labels.seed", "data.pixels.seed")
_WHERE_AND_HOW = ("data.root=", "kernel.memory_gb=", "kernel.panel=", "kernel.solver=")  # settings of studies
_HEADER = ["experiment", "row", "state", "seeds", "proof"]


def coverage(root: Path) -> Page:
    """A page with a line for each row and point of the paper's experiments. root: where their runs lie.

    whole: the recipe as it is shipped was run to its end, for that many seeds. subset: with a limit or other settings,
    by another version's recipe, or not to its end yet, as the line says. never: nothing of it is below `root`.
    """
    runs: dict[str, list[Run]] = {}
    unreadable = []
    for recipe in sorted((root / "runs").glob(f"*/{RECIPE}")):
        run = Run(recipe.parent)
        try:
            runs.setdefault(run.settings["recipe"], []).append(run)
            _ = run.summary, run.lines
        except (UserError, YAMLError, LookupError, TypeError, AttributeError, ValueError) as error:
            unreadable.append(f"{recipe.parent.relative_to(root)}: unreadable ({str(error).splitlines()[0]})")
            runs = {name: [one for one in found if one is not run] for name, found in runs.items()}
    rows = [row for name in EXPERIMENTS if EXPERIMENTS[name].of_paper for row in _of_experiment(name, runs, root)]
    rows += [row for name in STUDIES for row in _of_study(name, root)]
    page = Page("What of the paper was run")
    page.table(_HEADER, rows)
    counts = ", ".join(f"{sum(row[2].startswith(state) for row in rows)} {state}" for state in (WHOLE, SUBSET, NEVER))
    page.text(f"Rows and points: {counts}.")
    for text in unreadable:
        page.text(text)
    return page


def _of_experiment(name: str, runs: dict[str, list[Run]], root: Path) -> Iterator[list[str]]:
    for entry in EXPERIMENTS[name].entries(Scope(None, smoke=False)):
        found = runs.get(Path(entry.recipe).stem, [])
        label = ", ".join(f"{key} {text}" for key, text in entry.labels.items())
        whole = {run.settings["seed"]: run for run in found if _is_whole(run, entry)}
        if whole:
            proof = ", ".join(str((run.folder / SUMMARY).relative_to(root)) for _, run in sorted(whole.items()))
            yield [name, label, WHOLE, str(len(whole)), proof]
            continue
        parts = sorted((words, run.folder) for run in found if (words := _less(run, entry)))
        if parts:
            words, folder = min(parts, key=lambda part: (part[0].count(","), part))
            file = SUMMARY if (folder / SUMMARY).is_file() else METRICS
            yield [name, label, f"{SUBSET}: {words}", "", str((folder / file).relative_to(root))]
        else:
            yield [name, label, NEVER, "", ""]


def _is_whole(run: Run, entry: Entry) -> bool:
    """Whether a run is the entry's with its seed, and ran to the recipe's end."""
    point = entry.point(run.settings["seed"], ())
    if run.folder.name != point.folder_name or run.summary is None or not run.finished:
        return False
    train = point.load().train
    fitted = train.stop_at_interpolation and run.summary.fitted_epoch is not None
    return not _differences(run, entry) and (fitted or run.summary.epochs >= train.epochs)


def _differences(run: Run, entry: Entry) -> list[str]:
    """What a run has otherwise than an entry's recipe, but for seeds."""
    wanted, usual = decisive_settings(entry.point(0, ()).load()), Recipe().flat()
    own = {key: run.settings.get(key, usual.get(key)) for key in wanted}
    differ = [f"{key}={own[key]}" for key in wanted if key not in _SEEDS and own[key] != wanted[key]]
    return differ + [f"{key}={value}" for key, value in run.settings.items() if key not in usual]


def _less(run: Run, entry: Entry) -> str:
    """In what a run is less than the entry, or other; empty where it is another point, or nothing was measured yet."""
    differences = _differences(run, entry)
    if any(text.startswith(("data.labels.kind=", "data.labels.p=", "data.pixels.kind=")) for text in differences):
        return ""
    if run.finished and run.summary is not None:
        short = run.summary.fitted_epoch is None and run.summary.epochs < run.settings["train.epochs"]
        epochs = [f"{run.summary.epochs:g} of {run.settings['train.epochs']} epochs"] * short
        return ", ".join([*epochs, *differences]) or "of another version"
    line = run.last_line(metric("train_top1"))
    return ", ".join([f"{line['epoch']:g} of {run.settings['train.epochs']} epochs", *differences]) if line else ""


def _of_study(name: str, root: Path) -> Iterator[list[str]]:
    for case in find_study(name).cases(None):
        path = case_file(name, case, Settings(), root)
        alike = re.compile(re.escape(f"{name}-{case.name}-") + "[0-9a-f]{10}")
        others = [other for other in sorted(path.parent.glob(f"{name}-*.json")) if alike.fullmatch(other.stem)]
        states = {other: "" if other == path else _changed(other, case) for other in others}
        best = min(states, key=lambda other: (states[other].count(","), states[other]), default=None)
        for row in case.rows:
            label = ", ".join(f"{key} {text}" for key, text in row.labels.items())
            if best is None:
                yield [name, label, NEVER, "", ""]
            else:
                state = f"{SUBSET}: {states[best]}" if states[best] else WHOLE
                yield [name, label, state, "" if states[best] else "1", str(best.relative_to(root))]


def _changed(path: Path, case: Case) -> str:
    """What was computed with other settings, or of another case; empty if only where and how it was."""
    document = json.loads(path.read_text())
    usual = dict(_flat(asdict(Settings())))
    changed = [f"{key}={value}" for key, value in _flat(document["settings"]) if value != usual.get(key)]
    changed = [text for text in changed if not text.startswith(_WHERE_AND_HOW)]
    same = document["case"] == json.loads(json.dumps(case.described))
    return ", ".join([*changed, *["of another version"] * (not same)])


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
